"""The gates beside a worker's real bank, files and watch, over a small random model and a real broker."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import anyio
import mlx.core as mx
import pytest

from agents.gates.agent import GatesAgent
from agents.gates.settings import GatesSettings
from agents.inference import adapter_watch
from agents.inference.adapters.registration import RegisteredAdapters
from agents.shared.adapters.verdicts import KeptVerdict, read_digest
from bus.connection import Bus
from bus.testing import run_agents
from bus.topology import ADAPTERS
from schemas.adapters import (
    AdapterJudged,
    AdapterProposed,
    AdapterPublished,
    AdapterRejected,
    JudgeRequest,
    judgement_of,
    new_life,
)
from schemas.calls import GATES_JUDGE
from schemas.errors import KikiError, Unavailable
from schemas.events import Event
from tests.agents.dream.worker import KINDS, Judge, run_worker
from tests.agents.inference import hybrid

pytestmark = pytest.mark.anyio

PATIENCE = 60.0
E = TypeVar("E", bound=Event)


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_watch, "LOOK_SECONDS", 0.05)


@contextlib.asynccontextmanager
async def judging(bus: Bus, folder: Path, judge: Judge = lambda names: True) -> AsyncIterator[None]:
    """A worker whose folder has the operator's adapters "mine" and "other", and the gates."""
    async with run_worker(bus, folder, judge), run_agents(bus, make_gates(folder)):
        yield


def make_gates(folder: Path) -> GatesAgent:
    probes = folder.with_name("probes.jsonl")
    probes.write_text(json.dumps({"question": "q", "choices": ["right", "wrong"], "answer": 0}) + "\n")
    return GatesAgent(GatesSettings(probes=probes, judge_timeout=5.0))


def put_random(folder: Path, name: str, *, seed: int) -> str:
    """Copy random weights in, as a person would. Returns their digest."""
    hybrid.write(folder, hybrid.build(quantized=False), name, kinds=KINDS, seed=seed, rank=2, size=0.1)
    return read_digest(folder / name / "adapters.safetensors")


def put_changed(folder: Path, name: str, change: Callable[[mx.array], mx.array], *, leaf: str, source: str) -> str:
    """Copy in another adapter's weights, some of them changed. Returns their digest."""
    (folder / name).mkdir()
    config = (folder / source / "adapter_config.json").read_text()
    (folder / name / "adapter_config.json").write_text(config)
    tensors = dict(mx.load(str(folder / source / "adapters.safetensors")))  # type: ignore[arg-type]
    changed = {key: change(value) if key.endswith(leaf) else value for key, value in tensors.items()}
    mx.save_safetensors(str(folder / name / "adapters.safetensors"), changed)
    return read_digest(folder / name / "adapters.safetensors")


async def wait_for_verdict(bus: Bus, sha256: str) -> AdapterJudged:
    life = judgement_of(sha256, name="any")
    return await wait_for_event(bus, AdapterJudged, life.turn_id)


async def wait_for_event(bus: Bus, kind: type[E], turn_id: str) -> E:
    with anyio.fail_after(PATIENCE):
        while True:
            if (event := await bus.last(kind, turn_id, stream=ADAPTERS)) is not None:
                return event
            await anyio.sleep(0.02)


async def wait_for_state(folder: Path, name: str, state: str) -> KeptVerdict:
    """What the worker keeps beside the adapter, read as its next start reads it."""
    with anyio.fail_after(PATIENCE):
        while True:
            verdict = RegisteredAdapters(folder, is_judged=True).find_verdict(name)
            if verdict is not None and verdict.state == state:
                return verdict
            await anyio.sleep(0.02)


async def test_weights_that_are_copied_in_are_judged_and_then_served(bus: Bus, tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    folder.mkdir()
    async with judging(bus, folder):
        sha256 = put_random(folder, "sql", seed=11)
        assert not RegisteredAdapters(folder, is_judged=True).is_served("sql"), "at first sight"
        judged = await wait_for_verdict(bus, sha256)
        assert (judged.name, judged.passed) == ("sql", True)
        assert [(gate.name, gate.passed) for gate in judged.gates] == [("health", True), ("angle", True)]
        angle = judged.gates[1]
        assert (angle.bound, angle.value is not None and 60.0 < angle.value < 120.0) == (30.0, True)
        life = new_life("sql", tenant=adapter_watch.ORIGIN, key=sha256)
        assert (await wait_for_event(bus, AdapterPublished, life.turn_id)).gates == judged.gates
        await wait_for_state(folder, "sql", "passed")
        assert RegisteredAdapters(folder, is_judged=True).is_served("sql")
    assert {path.name for path in folder.iterdir()} == {"mine", "other", "sql", ".verdicts"}


async def test_unhealthy_weights_stay_refused_whatever_is_proposed_again(bus: Bus, tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    folder.mkdir()
    async with judging(bus, folder):
        sha256 = put_changed(folder, "sql", lambda b: b * 0, leaf="lora_b", source="mine")
        judged = await wait_for_verdict(bus, sha256)
        assert not judged.passed
        assert "lora_b" in judged.message
        verdict = await wait_for_state(folder, "sql", "refused")
        assert verdict.message == judged.message
    async with judging(bus, folder):
        life = new_life("sql", tenant="trainer")
        await bus.publish(AdapterProposed(envelope=life, name="sql", sha256=sha256))
        rejection = await wait_for_event(bus, AdapterRejected, life.turn_id)
        assert (rejection.stage, rejection.code, rejection.message) == ("gates", "adapter_refused", judged.message)
        registration = RegisteredAdapters(folder, is_judged=True)
        assert not registration.is_served("sql")
        with pytest.raises(KikiError) as caught:
            registration.require_served("sql", sha256)
        assert (caught.value.code, "lora_b" in caught.value.message) == ("adapter_refused", True)


@pytest.mark.parametrize("loses", [True, False])
async def test_weights_along_another_adapter_pass_only_if_it_loses_nothing(
    bus: Bus, tmp_path: Path, loses: bool
) -> None:
    folder = tmp_path / "adapters"
    folder.mkdir()

    def answer_rightly(names: str) -> bool:
        """The base does not; "other" does, alone and, unless it loses, with another beside it."""
        return names == "other" or (names.startswith("other+") and not loses)

    async with judging(bus, folder, answer_rightly):
        sha256 = put_changed(folder, "sql", lambda b: b * 1.01, leaf="lora_b", source="other")
        judged = await wait_for_verdict(bus, sha256)
        assert judged.passed is not loses
        angle, win_rate = judged.gates[1:]
        assert (angle.name, angle.passed, (angle.detail).startswith("other,")) == ("angle", False, True)
        assert (win_rate.name, win_rate.passed, win_rate.value) == ("win_rate", not loses, 0.5 if loses else 0.0)
        assert ("'other'" in judged.message) is loses


async def test_weights_wait_while_the_gates_are_away(bus: Bus, tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    folder.mkdir()
    async with run_worker(bus, folder):
        sha256 = put_random(folder, "sql", seed=12)
        await wait_for_state(folder, "sql", "waiting")
        assert not RegisteredAdapters(folder, is_judged=True).is_served("sql")
    async with run_worker(bus, folder), run_agents(bus, make_gates(folder)):
        assert (await wait_for_verdict(bus, sha256)).passed
        await wait_for_state(folder, "sql", "passed")


async def test_two_newcomers_that_are_alike_do_not_both_pass(bus: Bus, tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    folder.mkdir()
    async with judging(bus, folder, lambda names: "+" not in names and names != ""):
        digests = [put_random(folder, "sql", seed=13)]
        digests.append(put_changed(folder, "rust", lambda b: b * 1.01, leaf="lora_b", source="sql"))
        verdicts = [await wait_for_verdict(bus, sha256) for sha256 in digests]
        assert sorted(verdict.passed for verdict in verdicts) == [False, True]


async def test_a_proposal_of_weights_that_are_gone_is_rejected_without_a_verdict(bus: Bus, tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    folder.mkdir()
    async with judging(bus, folder):
        life = new_life("mine", tenant="trainer")
        await bus.publish(AdapterProposed(envelope=life, name="mine", sha256="0" * 64))
        rejection = await wait_for_event(bus, AdapterRejected, life.turn_id)
        assert "propose it again" in rejection.message
        assert await bus.last(AdapterJudged, judgement_of("0" * 64, name="mine").turn_id, stream=ADAPTERS) is None


async def test_without_a_worker_no_verdict_is_reached(bus: Bus, tmp_path: Path) -> None:
    async with run_agents(bus, make_gates(tmp_path / "adapters")):
        with pytest.raises(Unavailable):
            await bus.request(GATES_JUDGE, JudgeRequest(name="sql", sha256="0" * 64), timeout=5.0)
