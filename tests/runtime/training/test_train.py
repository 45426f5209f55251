"""``kiki train`` as a person types it: end to end, killed, refused, on a full disk, and through the curriculum."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from agents.shared.adapters.verdicts import VerdictFolder, read_digest
from runtime.cli.__main__ import app
from runtime.soak.isolation import fill_disk
from runtime.training.recipes import KEYS
from runtime.training.workspace import FOLDER
from tests.agents.inference.bases import write_base
from tests.small_disk import mount_small_disk

RECIPE: dict[str, Any] = {
    "iters": 4,
    "batch_size": 1,
    "learning_rate": 1e-3,
    "num_layers": -1,
    "mask_prompt": True,
    "lora_parameters": {"rank": 2, "scale": 1.0, "keys": list(KEYS)},
    "steps_per_report": 1,
    "steps_per_eval": 2,
    "save_every": 1,
}
Train = Callable[..., Result]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    return write_base(tmp_path_factory.mktemp("bases") / "float", small_model)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_set(tmp_path / "data")


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KIKI_DATA_DIR", str(tmp_path / "kiki"))
    return tmp_path / "kiki"


@pytest.fixture
def train(tmp_path: Path, base: Path, data: Path) -> Train:
    """Run ``kiki train``; further fields change the recipe."""

    def train_with(*arguments: str, **changes: Any) -> Result:
        options = make_options(tmp_path, base, data, **changes)
        return CliRunner().invoke(app, ["train", *arguments, *options])

    return train_with


def write_set(folder: Path, count: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"prompt": f"{number} + 1?", "completion": f"{number + 1}."}) + "\n" for number in range(count)]
    for name in ("train", "valid"):
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


def make_options(folder: Path, base: Path, examples: Path, **changes: Any) -> list[str]:
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE | {"model": str(base), "data": str(examples)} | changes))
    return ["--recipe", str(recipe), "--output", str(folder / "adapters")]


def start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "runtime.cli", "train", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], object], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def the_line(result: Result) -> str:
    """The last line of a failed command, which is no traceback."""
    assert result.exit_code in (1, 2)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1]


def test_a_domain_is_trained_judged_and_put_in_its_place(train: Train, base: Path, tmp_path: Path) -> None:
    result = train("sql")
    assert result.exit_code == 0, result.stderr
    place = tmp_path / "adapters" / "sql"
    assert sorted(path.name for path in (tmp_path / "adapters").iterdir()) == [".verdicts", "sql"]
    kept = VerdictFolder(tmp_path / "adapters").find(read_digest(place / "adapters.safetensors"))
    assert kept is not None
    assert (kept.state, [gate.name for gate in kept.gates]) == ("passed", ["health"])
    config = json.loads((place / "adapter_config.json").read_bytes())
    assert (config["domain"], config["base_model"], config["num_layers"]) == ("sql", str(base), -1)
    assert config["lora_parameters"]["rank"] == 2
    assert all(len(config[f"{part}_sha256"]) == 64 for part in ("base", "data", "recipe"))
    curve = json.loads((place / "losses.json").read_bytes())
    train_losses = [loss["loss"] for loss in curve["losses"] if loss["set"] == "train"]
    assert len(train_losses) == 4
    assert train_losses[-1] < train_losses[0]
    assert "memory: about" in result.stderr
    assert "no runtime runs" in result.stderr
    result = train("sql")
    assert "finished before, from the same base, data and recipe" in result.stdout
    # The same again points along itself under another domain's name, which loses by it.
    other = tmp_path / "adapters" / "rust"
    place.rename(other)
    (other / "adapter_config.json").write_text(json.dumps(config | {"domain": "rust"}))
    before = (other / "adapters.safetensors").read_bytes()
    result = train("sql")
    line = the_line(result)
    assert "refuses the adapter of sql: it points along 'rust' (0.0 degrees in " in line
    lost = re.search(r"wins (\S+) less beside it \(at most 0\.03\)", line)
    assert lost is not None
    assert float(lost[1]) > 0.03
    assert not place.exists()
    staged = tmp_path / "adapters" / FOLDER / "sql" / "adapter" / "adapters.safetensors"
    assert staged.read_bytes() == before  # equal seeds, equal weights
    # Judged again without a step once the other is gone.
    (other / "adapters.safetensors").unlink()
    result = train("sql")
    assert result.exit_code == 0, result.stderr
    assert "goes on after iteration 4" in result.stderr
    assert (place / "adapters.safetensors").is_file()
    assert not (tmp_path / "adapters" / FOLDER).exists()


def test_the_small_model_is_trained(train: Train, tmp_path: Path) -> None:
    parameters = {"rank": 4, "scale": 1.0}
    result = train("sql", "--model", "smollm2-135m-instruct", lora_parameters=parameters, num_layers=2, iters=2)
    assert result.exit_code == 0, result.stderr
    assert "14 modules" in result.stdout
    assert json.loads((tmp_path / "adapters/sql/adapter_config.json").read_bytes())["model"] == "smollm2-135m-instruct"


def test_a_killed_training_goes_on_and_another_is_refused_meanwhile(
    train: Train, base: Path, data: Path, tmp_path: Path, data_dir: Path
) -> None:
    options = make_options(tmp_path, base, data, iters=400)
    workspace = tmp_path / "adapters" / FOLDER / "sql"
    process = start("sql", *options)
    try:
        wait_until(lambda: len(list(workspace.glob("from-0000000/*_adapters.safetensors"))) >= 2)
        owner = (data_dir / "training.lock").read_text()
        assert owner == f"'kiki train sql' (process {process.pid})"
        assert f"{owner} is training here" in the_line(train("emc", iters=400))
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
    assert not (tmp_path / "adapters" / "sql").exists()
    reached = max(int(path.name[:7]) for path in workspace.glob("from-0000000/*_adapters.safetensors"))
    with start_when_free("sql", *options, lock=data_dir / "training.lock") as again:
        wait_until(lambda: any(path.name != "from-0000000" for path in workspace.glob("from-*")))
        wait_until(lambda: (workspace / "losses.jsonl").stat().st_size > 0)
        begins = max(int(path.name[5:]) for path in workspace.glob("from-*"))
        assert reached - 1 <= begins <= reached + 2
        wait_until(lambda: read_iterations(workspace)[-1] > begins)
        iterations = read_iterations(workspace)
        assert iterations == list(range(1, len(iterations) + 1))  # none twice, none left out
        child = find_child(again.pid)
        os.kill(child, signal.SIGKILL)
        assert again.stderr is not None
        lines = again.stderr.read().strip().splitlines()
        assert again.wait() == 1
    assert "killed by signal 9" in lines[-1]
    assert "goes on from the last checkpoint" in lines[-1]
    assert not (tmp_path / "adapters" / "sql").exists()


@contextlib.contextmanager
def start_when_free(*arguments: str, lock: Path) -> "Iterator[subprocess.Popen[str]]":
    """The command again, as soon as the child of the killed one has ended, which frees the lock."""
    for _ in range(20):
        process = start(*arguments)
        try:
            wait_until(partial(has_ended_or_begun, process, lock))
            if process.poll() is None:
                yield process
                return
        finally:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()
    pytest.fail("the lock of a killed training stays")


def has_ended_or_begun(process: "subprocess.Popen[str]", lock: Path) -> bool:
    return process.poll() is not None or lock.read_text().endswith(f"(process {process.pid})")


def read_iterations(workspace: Path) -> list[int]:
    lines = (workspace / "losses.jsonl").read_text().splitlines()
    losses = [json.loads(line) for line in lines if line.endswith("}")]
    return [loss["iteration"] for loss in losses if loss["set"] == "train"]


def find_child(parent: int) -> int:
    return int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])


def test_a_loss_that_is_no_number_leaves_nothing(train: Train, tmp_path: Path) -> None:
    line = the_line(train("sql", learning_rate=1e30, iters=20))
    assert "smaller learning_rate" in line
    assert list((tmp_path / "adapters").rglob("*")) == []


def test_a_full_disk_ends_in_one_line_and_the_training_goes_on_once_there_is_room(train: Train, tmp_path: Path) -> None:
    with mount_small_disk(tmp_path / "adapters", 2):
        # One checkpoint of this rank fits, and no more.
        parameters = RECIPE["lora_parameters"] | {"rank": 16}
        line = the_line(train("sql", lora_parameters=parameters))
        assert "the disk is full" in line
        assert "free some space" in line
        assert not (tmp_path / "adapters" / "sql").exists()
        with fill_disk(tmp_path / "adapters"):
            assert "the adapter cannot be written" in the_line(train("emc"))
        subprocess.run(["mount", "-o", "remount,size=32m", str(tmp_path / "adapters")], check=True)
        result = train("sql", lora_parameters=parameters)
        assert result.exit_code == 0, result.stderr
        assert (tmp_path / "adapters" / "sql" / "adapters.safetensors").is_file()


@pytest.mark.soak
def test_the_curriculum_trains_what_has_data_in_order_and_skips_what_is_finished(train: Train, tmp_path: Path) -> None:
    root = tmp_path / "merged"
    for domain in ("emc", "chat-fr"):
        write_set(root / domain)
    result = train("--curriculum", "--data", str(root), iters=2, save_every=2)
    assert result.exit_code == 0, result.stderr
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["chat-fr", "emc"]
    # The same data and seed give the same change, of which two steps are too little for anything to be lost.
    assert "gate: win rate of chat-fr" in result.stderr
    adapters = tmp_path / "adapters"
    kept = VerdictFolder(adapters).find(read_digest(adapters / "emc" / "adapters.safetensors"))
    assert kept is not None
    assert (kept.state, kept.message) == ("passed", "")
    assert [(gate.name, gate.passed) for gate in kept.gates] == [("health", True), ("angle", False), ("win_rate", True)]
    (root / "sql").mkdir()
    (root / "sql" / "train.jsonl").write_text("{\n")
    result = train("--curriculum", "--data", str(root), iters=2, save_every=2)
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["chat-fr"]
    assert "finished before" in lines[0]
    assert f"{root}/sql/train.jsonl:1: it is no JSON" in the_line(result)


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        (["sqll"], {}, "there is no domain 'sqll': did you mean 'sql'?"),
        (["sql", "--curriculum"], {}, "name one domain, or give --curriculum"),
        ([], {}, "name one domain, or give --curriculum"),
        (["sql"], {"iterations": 3}, "unknown field `iterations`"),
        (["sql"], {"fine_tune_type": "dora"}, "fine_tune_type 'dora' is refused"),
        (["sql"], {"data": "nowhere"}, "no examples in nowhere"),
        (["sql"], {"batch_size": 9}, "4 examples do not fill one batch of 9"),
        (["sql", "--model", "absent.gguf"], {}, "is a GGUF file, which is quantised"),
        (["sql", "--model", "/absent"], {}, "no model directory at /absent"),
        (["--curriculum", "--data", "/absent"], {}, "no domain of the curriculum has a train.jsonl in /absent"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_is_trained(
    train: Train, tmp_path: Path, arguments: list[str], changes: dict[str, Any], message: str
) -> None:
    result = train(*arguments, **changes)
    assert message in the_line(result)
    assert not (tmp_path / "adapters").exists()


@pytest.mark.parametrize("holder", ["quantization", "quantization_config"])
def test_a_quantised_base_is_refused_before_the_first_step(
    train: Train, tmp_path: Path, small_model: Path, holder: str
) -> None:
    base = write_base(tmp_path / "quantised", small_model, quantized=True)
    config = json.loads((base / "config.json").read_bytes())
    config[holder] = config.pop("quantization")
    (base / "config.json").write_text(json.dumps(config))
    assert "is quantised to 4 bits" in the_line(train("sql", "--model", str(base)))


def test_too_little_memory_is_refused_with_both_numbers(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIKI_AGENTS", json.dumps({"inference": {"memory_limit": 10_000_000}}))
    line = the_line(train("sql"))
    assert "training needs about 0.0 GB" in line or "training needs about 0.1 GB" in line
    assert "this machine has 0.0 GB for it: set grad_checkpoint" in line
    assert not (tmp_path / "adapters" / "sql").exists()
    assert not (tmp_path / "adapters" / FOLDER).exists()
