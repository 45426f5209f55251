"""``kiki adapters`` on folders: every exit code, on files made to fail that way; no broker, no worker."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from agents.shared.adapters import health
from agents.shared.retained import load_retained_set
from runtime.cli.__main__ import app
from tests.adapters import write_adapter, write_tiny_model, write_variation

COPIED = "model.layers.0.self_attn.q_proj"


@dataclass(frozen=True)
class Ending:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run_kiki(*arguments: str | Path) -> Ending:
    """Run ``kiki adapters``, with a broker's address where nothing listens."""
    options = {"KIKI_NATS": "nats://127.0.0.1:1"}
    result = CliRunner().invoke(app, ["adapters", *map(str, arguments)], env=options)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ending(result.exit_code, result.stdout, result.stderr)


@dataclass(frozen=True)
class Workshop:
    """A tiny base, probes, a folder of priors and one of new adapters."""

    model: Path
    probes: Path
    priors: Path
    new: Path

    def gate(self, name: str, *options: str | Path) -> Ending:
        return run_kiki("gate", self.new / name, "--prior-dir", self.priors, "--json", *options)

    @property
    def with_model(self) -> Sequence[str | Path]:
        return ("--model", self.model, "--probes", self.probes)


def find_helpful(model: Path, probes: Path, folder: Path) -> Path:
    """A random adapter that wins clearly against the base; of a change and its opposite, one does."""
    from agents.inference.mlx import cpu

    cpu.preload()
    from agents.inference.probing.forgetting import ForgettingProbe
    from agents.inference.settings import InferenceSettings

    settings = InferenceSettings(model=model, model_name="tiny", cpu_weights="float32")
    probe = ForgettingProbe(settings, load_retained_set(probes).questions)
    for seed in range(10):
        one = write_adapter(model, folder, f"try-{seed}", seed=seed, size=0.2)
        other = write_variation(one, folder, f"try-{seed}-mirrored", factor=-1.0)
        rates = {probe.win_rate(adapter): adapter for adapter in (one, other)}
        if max(rates) >= 0.6:
            return rates[max(rates)]
    raise AssertionError("no random adapter wins 60 %")


@pytest.fixture(scope="module")
def workshop(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    root = tmp_path_factory.mktemp("gates")
    model = write_tiny_model(small_model, root / "model")
    probes = root / "probes.jsonl"
    questions = load_retained_set(None).questions[:10]
    lines = ({"question": each.question, "choices": each.choices, "answer": each.answer} for each in questions)
    probes.write_text("\n".join(map(json.dumps, lines)) + "\n")
    helpful = find_helpful(model, probes, root / "tries")
    write_variation(helpful, root / "priors", "stack-01-rust", factor=1.0)
    write_adapter(model, root / "priors", "sql", seed=101)
    (root / "priors" / "notes").mkdir()
    new = root / "new"
    write_adapter(model, new, "shell", seed=102)
    write_variation(helpful, new, "python", factor=-2.0, copied=COPIED)
    write_variation(helpful, new, "cpp", factor=1.0)
    dead = {f"{COPIED}.lora_b": np.zeros((4, 64), np.float32)}
    write_adapter(model, new, "docker", seed=103, tensors=dead)
    return Workshop(model=model, probes=probes, priors=root / "priors", new=new)


def test_0_an_adapter_of_its_own_direction_passes(workshop: Workshop) -> None:
    ending = workshop.gate("shell")
    assert ending.code == 0, ending.err
    assert ending.json["verdict"] == "pass"
    assert {prior["prior"] for prior in ending.json["priors"]} == {"rust", "sql"}
    assert all(prior["smallest"]["degrees"] > 30 for prior in ending.json["priors"])
    assert "notes: it is no adapter" in ending.err


def test_1_a_copied_projection_fails_where_nothing_can_be_measured(workshop: Workshop) -> None:
    ending = workshop.gate("python")
    assert ending.code == 1, ending.err
    rust = next(prior for prior in ending.json["priors"] if prior["prior"] == "rust")
    assert (rust["verdict"], rust["win_rate_drop"]) == ("angle", None)
    assert rust["smallest"]["where"] == "layers.0.self_attn.q_proj"
    assert rust["smallest"]["degrees"] < 1
    assert rust["overall"] > 90


def test_2_a_measured_loss_fails(workshop: Workshop) -> None:
    ending = workshop.gate("python", *workshop.with_model)
    assert ending.code == 2, ending.err
    rust = next(prior for prior in ending.json["priors"] if prior["prior"] == "rust")
    assert rust["verdict"] == "win_rate"
    assert rust["win_rate_drop"] > 0.03
    assert next(prior for prior in ending.json["priors"] if prior["prior"] == "sql")["win_rate_drop"] is None


def test_0_a_small_loss_passes_in_spite_of_the_angle(workshop: Workshop, tmp_path: Path) -> None:
    write_variation(workshop.priors / "stack-01-rust", tmp_path, "shell", factor=0.001)
    ending = run_kiki("gate", tmp_path / "shell", "--prior-dir", workshop.priors, "--json", *workshop.with_model)
    assert ending.code == 0, ending.err
    rust = next(prior for prior in ending.json["priors"] if prior["prior"] == "rust")
    assert rust["smallest"]["degrees"] < 1
    assert rust["win_rate_drop"] is not None
    assert rust["win_rate_drop"] <= 0.03


def test_3_an_unhealthy_adapter_fails_before_all(workshop: Workshop) -> None:
    ending = workshop.gate("docker", *workshop.with_model)
    assert ending.code == 3, ending.err
    (fault,) = ending.json["health"]["faults"]
    assert (fault["rule"], fault["module"]) == ("alive", "layers.0.self_attn.q_proj")
    assert not ending.json["priors"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["gate"], "Missing argument"),
        (["gate", "{new}/shell"], "Missing option '--prior-dir'"),
        (["gate", "{new}/shell", "--prior-dir", "{priors}", "--nonsense"], "No such option"),
        (["gate", "{new}/nowhere", "--prior-dir", "{priors}"], "no folder at"),
        (["gate", "{new}/shell", "--prior-dir", "{new}/nowhere"], "no adapters folder at"),
        (["gate", "{new}/shell", "--prior-dir", "{priors}", "--model", "/nowhere/model"], "/nowhere/model"),
        (["gate", "{new}/cpp", "--prior-dir", "{priors}", "--model", "{model}", "--probes", "/nowhere"], "/nowhere"),
        (["gate", "{wide}", "--prior-dir", "{priors}"], "different bases"),
        (["check", "{new}/nowhere"], "no folder at"),
        (["check", "./nowhere", "--model", "/nowhere/model"], "nowhere"),
        (["angle", "{new}/shell"], "Missing argument"),
        (["angle", "{new}/shell", "{priors}/notes"], "has no adapter_config.json"),
        (["sweep", "{new}/nowhere"], "no adapters folder"),
        (["sweep", "{priors}", "--output", "/proc/nowhere/x.json", "--no-picture"], "cannot write"),
        (["smoke", "{new}/shell", "{priors}/sql"], "Missing option '--output'"),
        (["smoke", "{new}/shell", "{priors}/sql", "--output", "{new}/x.json"], "give it with --model"),
    ],
)
def test_64_an_error_of_the_command_is_no_verdict(
    workshop: Workshop, tmp_path: Path, arguments: list[str], why: str
) -> None:
    if "{wide}" in arguments:
        wide = {f"{COPIED}.lora_a": np.ones((65, 4), np.float32)}
        write_adapter(workshop.model, tmp_path, "wide", tensors=wide)
    places = {"new": workshop.new, "priors": workshop.priors, "model": workshop.model, "wide": tmp_path / "wide"}
    ending = run_kiki(*(argument.format(**places) for argument in arguments))
    assert (ending.code, ending.out) == (64, ""), ending.err
    assert why in ending.err
    assert "Traceback" not in ending.err


@pytest.mark.parametrize(
    ("arguments", "code"), [(["gate"], 64), (["check", "./nowhere"], 64), (["check", "{new}/docker"], 3)]
)
def test_the_process_ends_with_the_code(workshop: Workshop, arguments: list[str], code: int) -> None:
    command = [sys.executable, "-m", "runtime.cli", "adapters", *(each.format(new=workshop.new) for each in arguments)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == code


def test_64_a_bug_is_no_verdict(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "AdapterFile", None)
    ending = run_kiki("check", workshop.new / "shell")
    assert ending.code == 64
    assert "no verdict was reached" in ending.err


def test_check_takes_a_path_offline_and_a_name_to_the_worker(workshop: Workshop) -> None:
    healthy = run_kiki("check", workshop.new / "shell", "--model", workshop.model)
    assert healthy.code == 0, healthy.err
    assert healthy.out.startswith("shell: healthy, 4 modules of rank 4, F32")
    dead = run_kiki("check", workshop.new / "docker")
    assert dead.code == 3
    assert dead.out.startswith("docker: layers.0.self_attn.q_proj has a lora_b of all zeros")
    described = run_kiki("check", workshop.new / "docker", "--json").json
    assert (described["healthy"], described["modules"]) == (False, 4)
    command = [sys.executable, "-m", "runtime", "adapters", "check", "shell", "--nats", "nats://127.0.0.1:1"]
    named = subprocess.run(command, capture_output=True, text=True, check=False)
    assert named.returncode in (1, 2)
    assert "nats://127.0.0.1:1" in named.stderr


def test_angle_prints_every_grain(workshop: Workshop) -> None:
    ending = run_kiki("angle", workshop.new / "python", workshop.priors / "stack-01-rust", workshop.priors / "sql")
    assert ending.code == 0, ending.err
    rust, sql = ending.json
    assert (rust["new"], rust["prior"], sql["prior"]) == ("python", "rust", "sql")
    assert set(rust["kinds"]) == {"self_attn.q_proj", "self_attn.v_proj"}
    assert set(rust["layers"]) == {"0", "1"}
    assert rust["modules"]["layers.0.self_attn.q_proj"] < 1
    assert rust["modules"]["layers.1.self_attn.q_proj"] > 179
    assert sql["smallest"]["degrees"] > 30


def test_sweep_writes_the_matrix_and_the_audit(workshop: Workshop, tmp_path: Path) -> None:
    good = run_kiki("sweep", workshop.priors, "--output", tmp_path / "priors.json", "--no-picture")
    assert good.code == 0, good.err
    result = json.loads((tmp_path / "priors.json").read_text())
    assert result["names"] == ["rust", "sql"]
    assert result["smallest"][0][1] == result["smallest"][1][0] == result["pairs"][0]["smallest"]["degrees"] > 30
    assert [audit["healthy"] for audit in result["health"]] == [True, True]
    assert result["strangers"][0]["folder"].endswith("notes")
    bad = run_kiki("sweep", workshop.new, "--output", tmp_path / "new.json", "--no-picture")
    assert bad.code == 3
    result = json.loads((tmp_path / "new.json").read_text())
    assert result["names"] == ["cpp", "python", "shell"]
    assert [audit["name"] for audit in result["health"] if not audit["healthy"]] == ["docker"]
    assert "docker: layers.0.self_attn.q_proj has a lora_b of all zeros" in bad.out
    (tmp_path / "pair").mkdir()
    for name in ("cpp", "python"):
        (tmp_path / "pair" / name).symlink_to(workshop.new / name)
    close = run_kiki("sweep", tmp_path / "pair", "--output", tmp_path / "pair.json", "--no-picture")
    assert close.code == 1
    assert "cpp and python: 0.0 degrees in layers.0.self_attn.q_proj" in close.out


def test_sweep_draws_the_matrix(workshop: Workshop, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert run_kiki("sweep", workshop.priors, "--output", tmp_path / "priors.json").code == 0
    assert (tmp_path / "priors.png").read_bytes().startswith(b"\x89PNG")


def test_sweep_without_matplotlib_says_so_and_writes_the_rest(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ending = run_kiki("sweep", workshop.priors, "--output", tmp_path / "priors.json")
    assert ending.code == 64
    assert "install micro-kiki[bench]" in ending.err
    assert json.loads((tmp_path / "priors.json").read_text())["names"] == ["rust", "sql"]


def test_smoke_runs_all_of_it_on_two_adapters(workshop: Workshop, tmp_path: Path) -> None:
    output = tmp_path / "smoke.json"
    ending = run_kiki(
        "smoke", workshop.new / "shell", workshop.priors / "sql", "--output", output, *workshop.with_model
    )
    assert ending.code == 0, ending.err
    result = json.loads(output.read_text())
    assert result["verdict"] == "pass"
    assert all(change > 0.01 for change in result["largest_logit_change"])
    assert all(0 <= rate <= 1 for rates in result["win_rates"] for rate in rates.values())
    assert [gate["health"]["name"] for gate in result["gates"]] == ["shell", "sql"]
    assert [[prior["prior"] for prior in gate["priors"]] for gate in result["gates"]] == [["sql"], ["shell"]]


def test_smoke_fails_as_the_gate_does(workshop: Workshop, tmp_path: Path) -> None:
    for name, code in (("docker", 3), ("python", 2)):
        output = tmp_path / f"{name}.json"
        ending = run_kiki(
            "smoke", workshop.new / name, workshop.priors / "stack-01-rust", "--output", output, *workshop.with_model
        )
        assert ending.code == json.loads(output.read_text())["exit_code"] == code, ending.err
