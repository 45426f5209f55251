"""``kiki validate``: each check fails on a tree that is broken in its way, and all faults are told at once."""

import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from runtime.cli.__main__ import app
from runtime.training.validation import CHECKS, check_adapters

Breaking = Callable[[Path], object]
SMALL = files("configs").joinpath("lora/small/sql.yaml").read_text()
"""A recipe of the small fleet."""


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """A copy of ``configs``, to be broken."""
    target = tmp_path / "configs"
    shutil.copytree(str(files("configs")), target, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    return target


def replace(file: str, old: str, new: str) -> Breaking:
    """Breaks a file by one replacement."""

    def apply(configs: Path) -> None:
        path = configs / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return apply


def remove(file: str) -> Breaking:
    return lambda configs: (configs / file).unlink()


def copy(source: str, target: str) -> Breaking:
    return lambda configs: shutil.copyfile(configs / source, configs / target)


def write_small(text: str, name: str = "sql") -> Breaking:
    def apply(configs: Path) -> None:
        (configs / "lora" / "small").mkdir(exist_ok=True)
        (configs / "lora" / "small" / f"{name}.yaml").write_text(text)

    return apply


def swap_phases(configs: Path) -> None:
    path = configs / "lora" / "curriculum.yaml"
    head, *phases = path.read_text().split("- name: ")
    phases[0], phases[3] = phases[3], phases[0]
    path.write_text(head + "".join(f"- name: {phase}" for phase in phases))


BREAKINGS: list[tuple[str, Breaking, str]] = [
    (
        "domains",
        replace("domains.yaml", "rust:\n  output: rust", "rost:\n  output: rust"),
        "coding.domains names 'rust'",
    ),
    ("domains", replace("domains.yaml", "\nrust:", "\nrost:"), "rust.yaml: 'rust' is no domain"),
    ("domains", replace("domains.yaml", "  order: 6\n", "  order: 7\n"), "order must have each of 1 to 35 once"),
    ("domains", replace("domains.yaml", "phase: foundations", "phase: basics"), "chat-fr.phase is 'basics'"),
    ("domains", replace("domains.yaml", "output: electronics-hw", "output: parts"), "32 outputs, expected 31"),
    (
        "domains",
        replace("aliases.yaml", "[chat-fr, music-audio,", "[chat-fr, music,"),
        "creative.domains names 'music'",
    ),
    (
        "domains",
        replace("aliases.yaml", "base_domains: [python,", "base_domains: [snake,"),
        "base_domains names 'snake'",
    ),
    ("domains", replace("stacks.yaml", "- [emc]\n", ""), "stacks.yaml: 'emc' is missing"),
    ("domains", replace("stacks.yaml", "- [emc]\n", "- [emc, dsp]\n"), "'dsp' stands 2 times"),
    ("domains", replace("router/meta.json", '"emc",', '"emi",'), "labels: 'emi' is not in domains.yaml"),
    ("domains", replace("router/meta.json", '"kicad-dsl",', ""), "niches are"),
    ("domains", remove("router/meta.json"), "meta.json: it cannot be read"),
    ("domains", remove("router/corpus/emc.jsonl"), "emc.jsonl is missing"),
    ("domains", remove("lora/emc.yaml"), "emc.yaml is missing"),
    ("domains", copy("lora/emc.yaml", "lora/emi.yaml"), "emi.yaml: 'emi' is no domain"),
    ("domains", replace("domains.yaml", "chat-fr:", "chat-fr: ["), "domains.yaml: it cannot be read"),
    ("recipes", replace("lora/sql.yaml", "rank: 16", "rank: 8"), "sql.yaml: lora_parameters.rank is 8, expected 16"),
    ("recipes", replace("lora/sql.yaml", "scale: 1.0", "scale: 2.0"), "scale is 2.0, expected 1.0"),
    ("recipes", replace("lora/sql.yaml", "num_layers: 32", "num_layers: 40"), "num_layers is 40, expected 32"),
    ("recipes", replace("lora/sql.yaml", "    - mlp.gate\n", ""), "keys lacks mlp.gate"),
    ("recipes", replace("lora/sql.yaml", "    - mlp.gate\n", "    - mlp.gates\n"), "keys has mlp.gates"),
    ("recipes", replace("lora/sql.yaml", "learning_rate: 1.0e-05", "learning_rate: 1e-4"), "learning_rate is 0.0001"),
    ("recipes", replace("lora/sql.yaml", "iters: 500", "iters: 600"), "iters is 600, expected 500"),
    ("recipes", replace("lora/sql.yaml", "data/merged/sql", "data/merged/spice"), "data is 'data/merged/spice'"),
    ("recipes", replace("lora/sql.yaml", "mask_prompt: true", "mask_prompt: false"), "mask_prompt is False"),
    ("recipes", replace("lora/sql.yaml", "Qwen3.6-35B", "Qwen3-30B"), "model is 'Qwen/Qwen3-30B-A3B'"),
    ("recipes", replace("lora/sql.yaml", "type: lora", "type: dora"), "'dora' is refused"),
    ("recipes", replace("lora/sql.yaml", "train: true", "trains: true"), "unknown field `trains`"),
    ("recipes", replace("lora/sql.yaml", "# How", "# As Qwen3.5-4B was, how"), "sql.yaml:1: it names an older base"),
    ("recipes", replace("aliases.yaml", "intent: general", "intent: qwen3_5-4b"), "aliases.yaml"),
    ("recipes", write_small(SMALL.replace("rank: 16", "rank: 4")), "rank is 4, expected 16"),
    ("recipes", write_small(SMALL.replace("mlp.up", "mlp.fc")), "keys lacks mlp.up_proj"),
    (
        "recipes",
        write_small(SMALL.replace("coder-0.5b", "coder-7b")),
        "model is 'qwen2.5-coder-7b",
    ),
    ("recipes", write_small(SMALL.replace("sql", "tea"), "tea"), "'tea' is no domain"),
    ("curriculum", swap_phases, "comes after technical (niches): expected foundations, coding, niches"),
    ("curriculum", swap_phases, "it begins with niches, expected foundations"),
    ("curriculum", replace("lora/curriculum.yaml", "    - emc\n", ""), "'emc' is missing"),
    ("curriculum", replace("lora/curriculum.yaml", "    - emc\n", "    - emc\n    - emc\n"), "'emc' stands 2 times"),
    ("curriculum", replace("lora/curriculum.yaml", "    - emc\n", "    - emi\n"), "'emi' is not in domains.yaml"),
    ("curriculum", replace("lora/curriculum.yaml", ": 1000", ": 900"), "900 iterations, expected 1000 to 1000"),
    ("curriculum", replace("lora/curriculum.yaml", ": 200", ": 300"), "300 iterations, expected 100 to 200"),
    ("curriculum", replace("lora/curriculum.yaml", "kind: coding", "kind: code"), "Invalid enum value 'code'"),
    (
        "curriculum",
        replace("domains.yaml", "phase: coding-core", "phase: technical"),
        "domains.yaml has it in technical",
    ),
    (
        "curriculum",
        replace("lora/curriculum.yaml", "    - emc\n    - dsp\n", "    - dsp\n    - emc\n"),
        "number 21 is 'dsp'",
    ),
]


def test_the_shipped_configs_have_no_fault(configs: Path) -> None:
    assert {name: check(configs) for name, check in CHECKS.items()} == {name: [] for name in CHECKS}


@pytest.mark.parametrize(("check", "apply", "message"), BREAKINGS, ids=[f"{i}-{b[0]}" for i, b in enumerate(BREAKINGS)])
def test_a_broken_tree_is_named(configs: Path, check: str, apply: Breaking, message: str) -> None:
    apply(configs)
    faults = CHECKS[check](configs)
    assert any(message in fault for fault in faults), faults
    assert all("\n" not in fault for fault in faults)


def test_the_small_template_has_no_fault(configs: Path) -> None:
    write_small(SMALL)(configs)
    assert CHECKS["recipes"](configs) == []


def test_the_command_prints_all_errors_and_exits_1(configs: Path) -> None:
    replace("lora/sql.yaml", "rank: 16", "rank: 8")(configs)
    replace("lora/emc.yaml", "scale: 1.0", "scale: 2.0")(configs)
    replace("lora/curriculum.yaml", "    - emc\n", "")(configs)
    outcome = CliRunner().invoke(app, ["validate", "--configs", str(configs)])
    assert outcome.exit_code == 1
    lines = outcome.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == ["recipes", "recipes", "curriculum"]
    assert lines[-1] == "3 errors in recipes, curriculum"


@pytest.mark.parametrize("name", ["domains", "recipes", "curriculum"])
def test_the_command_runs_one_check_on_the_shipped_configs(name: str) -> None:
    outcome = CliRunner().invoke(app, ["validate", name])
    assert (outcome.exit_code, outcome.stdout.strip()) == (0, f"{name}: no errors")


def write_adapter(folder: Path, *, b: float = 1.0, **config: object) -> None:
    folder.mkdir(parents=True)
    base = {"fine_tune_type": "lora", "lora_parameters": {"rank": 2, "scale": 1.0}}
    (folder / "adapter_config.json").write_text(json.dumps(base | config))
    path = "model.layers.0.self_attn.q_proj"
    tensors = {
        f"{path}.lora_a": np.ones((8, 2), np.float32),
        f"{path}.lora_b": np.full((2, 8), b, np.float32),
    }
    save_file(tensors, folder / "adapters.safetensors")


def test_adapters_are_checked_by_folder(tmp_path: Path) -> None:
    write_adapter(tmp_path / "sql")
    write_adapter(tmp_path / "stack-06-rust")
    assert check_adapters(tmp_path) == []
    write_adapter(tmp_path / "emc", b=0.0)
    write_adapter(tmp_path / "dsp", b=float("nan"))
    write_adapter(tmp_path / "iot", base_model="Qwen/Qwen3.5-4B")
    (tmp_path / "notes").mkdir()
    faults = check_adapters(tmp_path)
    for name in ("emc", "dsp", "iot", "notes"):
        assert [fault for fault in faults if fault.startswith(f"{tmp_path / name}: ")], (name, faults)
    assert len(faults) == 4
    outcome = CliRunner().invoke(app, ["validate", "adapters", str(tmp_path)])
    assert outcome.exit_code == 1
    assert len(outcome.stdout.splitlines()) == 5


@pytest.mark.parametrize("arguments", [["adapters"], ["domains", "somewhere"]])
def test_a_folder_is_for_adapters_alone(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, ["validate", *arguments]).exit_code == 1
