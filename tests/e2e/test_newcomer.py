"""Adapters that come into the folder of a running runtime: judged at first sight, then served or refused."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from tests.conftest import SMALL_MODEL
from tests.e2e.adapters import OTHER, write_small_adapter
from tests.e2e.conftest import Runtime

pytestmark = pytest.mark.timeout(300)
WEIGHTS = "adapters.safetensors"


@pytest.fixture
def folder(runtime: Runtime) -> Iterator[Path]:
    """The runtime's adapters, which are again as they were at the end."""
    adapters = Path(runtime.environment["KIKI_ADAPTERS"])
    before = set(adapters.iterdir())
    yield adapters
    for path in set(adapters.iterdir()) - before:
        if not path.name.startswith("."):
            shutil.rmtree(path)


def ask(runtime: Runtime, domain: str) -> httpx.Response:
    body = {
        "model": f"kiki-niche-{domain}",
        "messages": [{"role": "user", "content": "Say it."}],
        "max_tokens": 4,
        "seed": 7,
        "kiki": {"level": "fast", "trace": True},
    }
    reply = httpx.post(f"{runtime.http}/v1/chat/completions", json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    return reply


def list_adapters_of(runtime: Runtime, reply: httpx.Response) -> list[str]:
    """Names of the adapters that answered the turn."""
    turn = httpx.get(f"{runtime.http}/v1/turns/{reply.headers['x-turn-id']}", timeout=30).json()
    done = next(event for event in turn["events"] if event["subject"] == "infer.done")
    return [use["name"] for use in done["event"]["inference"]["candidates"][0]["adapters"]]


def wait_for_health(runtime: Runtime, is_met: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    end = time.monotonic() + 60
    while True:
        adapters: dict[str, Any] = httpx.get(f"{runtime.http}/health", timeout=30).json()["adapters"]
        if is_met(adapters):
            return adapters
        assert time.monotonic() < end, adapters
        time.sleep(0.2)


def wait_for_verdict(runtime: Runtime, name: str, verdict: str, *, seconds: float = 120) -> None:
    """Wait until ``kiki adapters ls`` shows the verdict on the adapter."""
    end = time.monotonic() + seconds
    while True:
        listing = runtime.kiki("adapters", "ls").stdout
        verdicts = [line.split()[3] for line in listing.splitlines() if f" {name} " in line]
        if verdicts == [verdict]:
            return
        assert time.monotonic() < end, listing
        time.sleep(0.5)


def test_an_adapter_that_is_copied_in_is_judged_and_answers_the_next_turn(
    runtime: Runtime, folder: Path, small_model: Path
) -> None:
    wait_for_health(runtime, lambda adapters: OTHER in adapters["ungated"])
    write_small_adapter(folder, "stack-07-docker", small_model, seed=5)
    first = ask(runtime, "docker")
    served_at_once = list_adapters_of(runtime, first)
    wait_for_verdict(runtime, "docker", "passed")
    assert (served_at_once, list_adapters_of(runtime, ask(runtime, "docker"))) == ([], ["docker"])


def test_an_adapter_that_changes_nothing_is_refused_and_says_why(
    runtime: Runtime, folder: Path, small_model: Path
) -> None:
    write_small_adapter(folder, "emc", small_model, seed=6)
    tensors = load_file(folder / "emc" / WEIGHTS)
    dead = {name: tensor * np.float32(0) if name.endswith("lora_b") else tensor for name, tensor in tensors.items()}
    save_file(dead, folder / "emc" / WEIGHTS)
    assert wait_for_health(runtime, lambda adapters: bool(adapters["refused"]))["refused"] == ["emc"]
    assert list_adapters_of(runtime, ask(runtime, "emc")) == []
    listing = runtime.kiki("adapters", "ls").stdout
    assert "lora_b" in next(line for line in listing.splitlines() if line.startswith("emc:"))
    loading = runtime.kiki("adapters", "load", "emc")
    assert loading.returncode != 0
    assert "lora_b" in loading.stderr
    findings = runtime.kiki("doctor").stdout
    assert any("adapter emc" in line and "refused" in line for line in findings.splitlines())


def test_a_training_beside_the_runtime_is_judged_by_its_gates_and_answers_at_the_next_turn(
    runtime: Runtime, folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    lines = [json.dumps({"prompt": f"{number}, over?", "completion": "Over and out."}) + "\n" for number in range(8)]
    (data / "train.jsonl").write_text("".join(lines))
    recipe = {
        "model": SMALL_MODEL,
        "data": str(data),
        "iters": 4,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "num_layers": 2,
        "lora_parameters": {"rank": 4, "scale": 1.0, "keys": ["self_attn.q_proj", "mlp.down_proj"]},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = runtime.kiki("train", "embedded", "--recipe", str(tmp_path / "recipe.yaml"), timeout=240)
    assert result.returncode == 0, result.stderr
    assert "embedded: served: the worker has activated" in result.stdout
    assert list_adapters_of(runtime, ask(runtime, "embedded")) == ["embedded"]
    trace = runtime.kiki("adapters", "ls").stdout
    assert [line.split()[3] for line in trace.splitlines() if " embedded " in line] == ["passed"]
