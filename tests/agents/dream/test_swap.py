"""Dream episodes and swaps with the worker's real thread, bank and files, over a small random model."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from safetensors.numpy import load, save

from agents.dream.agent import DreamAgent
from agents.dream.settings import DreamSettings
from agents.dream.training import train_with_watchdog
from agents.gates.agent import GatesAgent
from agents.gates.settings import GatesSettings
from bus.connection import Bus, LiveMessage
from bus.storage import objects
from bus.testing import run_agents
from bus.topology import ADAPTERS
from runtime.dreaming import run_episode, swap_weights
from schemas.adapters import AdapterPublished, AdapterRejected
from schemas.calls import ADAPTERS_EXPORT, ADAPTERS_TRAIN, DREAM_SNAPSHOT, DREAM_SWAP
from schemas.consolidation import Example, ExportReply, ExportRequest, SwapReply, SwapRequest, TrainRequest
from schemas.dream import BetaRecord, DreamStatus, SnapshotRequest
from schemas.errors import KikiError, Unavailable
from tests.agents.dream.test_profiles import episode
from tests.agents.dream.worker import Judge, run_worker

pytestmark = pytest.mark.anyio
RECORDS = tuple(
    BetaRecord(id=number, context=f"ask {number}", outcome="tell", saillance_score=0.4, timestamp=1.0)
    for number in (1, 2)
)


@contextlib.asynccontextmanager
async def dreaming(bus: Bus, folder: Path, judge: Judge = lambda name: True) -> AsyncIterator[None]:
    retained_path = folder / "retained.jsonl"
    retained_path.write_text(json.dumps({"question": "q", "choices": ["right", "wrong"], "answer": 0}) + "\n")
    (folder / "adapters").mkdir()
    agent = DreamAgent(DreamSettings(retained=retained_path, directions=2, learning_rate=0.01, judge_timeout=5.0))
    gates = GatesAgent(GatesSettings(probes=retained_path, judge_timeout=5.0))
    async with run_worker(bus, folder / "adapters", judge), run_agents(bus, agent, gates):
        yield


async def export_mine(bus: Bus) -> ExportReply:
    return await bus.request(ADAPTERS_EXPORT, ExportRequest(name="mine"), timeout=10)


async def prepare_swap(bus: Bus, *, by: float = 0.5, spoil: bool = False) -> SwapRequest:
    """A swap to other numbers."""
    current = await export_mine(bus)
    tensors = {key: value * np.float32(by) for key, value in load(await objects.get(bus, current.weights)).items()}
    if spoil:
        next(iter(tensors.values()))[0, 0] = np.inf
    sha256 = await objects.put(bus, save(tensors))
    return SwapRequest(episode_id="de-swap", adapter="mine", sha256=sha256, base_sha256=current.sha256)


async def swap(bus: Bus, request: SwapRequest) -> SwapReply:
    return await bus.request(DREAM_SWAP, request, timeout=20)


async def replay(bus: Bus, **changes: Any) -> DreamStatus:
    return await run_episode(bus, "P_max", episode("replay", "downscale", beta_records=RECORDS, **changes))


async def test_a_replayed_adapter_is_swapped_in_once(bus: Bus, tmp_path: Path) -> None:
    async with dreaming(bus, tmp_path):
        before = await export_mine(bus)
        done = await replay(bus)
        report = done.report
        assert report is not None
        assert report.weight_delta is not None
        assert (report.executed, report.record_ids) == (("replay", "downscale"), (1, 2))
        assert report.weight_delta.base_sha256 == before.sha256 == (await export_mine(bus)).sha256
        assert (report.weight_delta.loss_after or 9.0) < (report.weight_delta.loss_before or 0.0)
        assert report.spent.flops > 0.0
        first = await swap_weights(bus, done)
        assert first.pause_ms > 0.0
        assert (await export_mine(bus)).sha256 == report.weight_delta.sha256 == first.sha256
        assert await swap_weights(bus, done) == first
        assert await replay(bus) == done
        publication = await bus.last(AdapterPublished, report.episode_id, stream=ADAPTERS)
        assert publication is not None
        assert [gate.name for gate in publication.gates] == ["S4", "S2", "S3", "S1", "health", "angle"]
        assert {path.name for path in (tmp_path / "adapters").iterdir()} == {"mine", "other", ".verdicts"}


async def test_a_swap_that_died_after_the_exchange_is_answered_on_retry(bus: Bus, tmp_path: Path) -> None:
    async with dreaming(bus, tmp_path):
        request = await prepare_swap(bus)
        await swap(bus, request)
        await bus.js.purge_stream("DREAMLOG")
        again = await swap(bus, request)
        assert (again.sha256, again.pause_ms) == (request.sha256, 0.0)


async def test_all_operations_yield_all_outputs(bus: Bus, tmp_path: Path) -> None:
    async with dreaming(bus, tmp_path):
        for number in range(2):
            ring = SnapshotRequest(snapshot_id=f"s{number}", species={"sem": (1.0, float(number))})
            await bus.request(DREAM_SNAPSHOT, ring, timeout=5)
        whole = episode(
            "replay",
            "downscale",
            "restructure",
            "recombine",
            beta_records=RECORDS,
            others=("other",),
            snapshots=2,
            output_channels=("weight_delta", "latent_sample", "hierarchy_chg", "attention_prior"),
        )
        done = await run_episode(bus, "P_max", whole)
        assert done.report is not None
        assert done.report.executed == whole.operation_set
        assert done.report.attention_prior == {"mine": 0.4}
        assert [sample.species for sample in done.report.latent_sample] == ["sem"]
        assert (await swap_weights(bus, done, other_adapters=("other",))).sha256 == (await export_mine(bus)).sha256


REFUSED: dict[str, tuple[dict[str, Any], Judge, dict[str, Any]]] = {
    "S1": ({}, lambda name: "staged" not in name, {}),
    "S2": ({"spoil": True}, lambda name: True, {}),
    "S4": ({}, lambda name: True, {"attention_prior": {"a": 0.8, "b": 0.8}}),
    "base_sha256": ({}, lambda name: True, {"base_sha256": "0" * 64}),
}


@pytest.mark.parametrize("param", REFUSED)
async def test_a_refused_swap_changes_nothing_and_is_kept_with_its_reason(bus: Bus, tmp_path: Path, param: str) -> None:
    how, judge, fields = REFUSED[param]
    async with dreaming(bus, tmp_path, judge):
        before = await export_mine(bus)
        request = await prepare_swap(bus, **how)
        wrong = SwapRequest(**{name: getattr(request, name) for name in request.__struct_fields__} | fields)
        with pytest.raises(KikiError) as caught:
            await swap(bus, wrong)
        assert (caught.value.code, caught.value.param) == ("invariant_broken", param)
        rejection = await bus.last(AdapterRejected, "de-swap", stream=ADAPTERS)
        assert rejection is not None
        assert (rejection.gates[-1].name, rejection.gates[-1].passed) == (param, False)
        assert (await export_mine(bus)).sha256 == before.sha256
        assert {path.name for path in (tmp_path / "adapters").iterdir()} == {"mine", "other", ".verdicts"}


async def test_a_swap_along_another_adapter_that_loses_by_it_is_refused(bus: Bus, tmp_path: Path) -> None:
    async with dreaming(bus, tmp_path, lambda names: "+" not in names and names != ""):
        before = await export_mine(bus)
        other = await bus.request(ADAPTERS_EXPORT, ExportRequest(name="other"), timeout=10)
        tensors = {key: value * np.float32(0.5) for key, value in load(await objects.get(bus, other.weights)).items()}
        sha256 = await objects.put(bus, save(tensors))
        request = SwapRequest(episode_id="de-swap", adapter="mine", sha256=sha256, base_sha256=before.sha256)
        with pytest.raises(KikiError, match="degrees from 'other'") as caught:
            await swap(bus, request)
        assert (caught.value.code, caught.value.param) == ("invariant_broken", "gates")
        rejection = await bus.last(AdapterRejected, "de-swap", stream=ADAPTERS)
        assert rejection is not None
        assert [gate.name for gate in rejection.gates] == ["S4", "S2", "S3", "S1", "gates"]
        assert (await export_mine(bus)).sha256 == before.sha256


async def test_a_budget_of_operations_is_kept(bus: Bus, tmp_path: Path) -> None:
    async with dreaming(bus, tmp_path):
        budget = {"flops": 1000.0, "wall_time_s": 60.0, "energy_j": 1e5}
        with pytest.raises(KikiError) as caught:
            await replay(bus, budget=type(episode("replay").budget)(**budget))
        assert (caught.value.code, caught.value.param) == ("budget_exceeded", "episode.budget.flops")


async def test_a_missing_object_or_adapter_is_named(bus: Bus, tmp_path: Path) -> None:
    async with dreaming(bus, tmp_path):
        request = await prepare_swap(bus)
        fields = {name: getattr(request, name) for name in request.__struct_fields__}
        with pytest.raises(KikiError) as caught:
            await swap(bus, SwapRequest(**fields | {"sha256": "1" * 64}))
        assert (caught.value.code, caught.value.param) == ("invalid_request", "sha256")
        with pytest.raises(KikiError) as caught:
            await swap(bus, SwapRequest(**fields | {"adapter": "nobody"}))
        assert caught.value.code == "adapter_failed"


async def test_a_worker_that_dies_in_a_training_is_noticed(bus: Bus) -> None:
    async def ignore_request(_: LiveMessage) -> None:
        """Take the request, and say no more."""

    await bus.listen(bus.subjects.service(ADAPTERS_TRAIN.verb), ignore_request)
    request = TrainRequest(
        name="mine",
        weights="0" * 64,
        examples=(Example(context="q", outcome="a"),),
        flops=1.0,
        seconds=60.0,
        beat=bus.client.new_inbox(),
    )
    with anyio.fail_after(20), pytest.raises(Unavailable, match="nothing was heard"):
        await train_with_watchdog(bus, request, timeout=60.0, silence=0.3)
