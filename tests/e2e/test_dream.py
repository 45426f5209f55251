"""Consolidation as dream-of-kiki meets it: turns, a dream over the bus only, an answer with the new adapter."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import numpy as np
import pytest
from safetensors.numpy import load, save

from bus import stream as reading
from bus.connection import Bus, connect
from bus.storage import objects
from bus.topology import ADAPTERS, DREAMLOG, EPISODES, SERVICES
from runtime.dreaming import run_episode
from schemas.adapters import AdapterListRequest, AdapterRejected, JudgeRequest
from schemas.calls import (
    ADAPTERS_EXCHANGE,
    ADAPTERS_EXPORT,
    ADAPTERS_LS,
    ADAPTERS_STAGE,
    DREAM_SNAPSHOT,
    DREAM_SWAP,
    GATES_JUDGE,
)
from schemas.chat import Message, Sampling
from schemas.codec import decode
from schemas.consolidation import (
    ExchangeRequest,
    ExportReply,
    ExportRequest,
    StageRequest,
    SwapRequest,
)
from schemas.dream import BetaRecord, Budget, DreamDone, DreamEpisode, InputSlice, SnapshotRequest
from schemas.envelope import Envelope, new_turn
from schemas.errors import KikiError
from schemas.events import AnswerReady, EpisodeRecorded, InferToken, QueryReceived
from schemas.findings import Query
from schemas.services import EpisodesConsumed
from tests.e2e import dreamer
from tests.e2e.adapters import ADAPTER, OTHER
from tests.e2e.conftest import Runtime

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]


async def run_turn(bus: Bus, text: str, *, envelope: Envelope | None = None, tokens: int = 4) -> AnswerReady:
    """Run a turn and wait until it is recorded; returns its answer."""
    envelope = envelope or new_turn(tenant="dreamt", session_id="afterwards", timeout=120.0)
    query = Query(
        model=f"kiki-niche-{ADAPTER}",
        messages=(Message(role="user", content=text),),
        sampling=Sampling(max_tokens=tokens, seed=7),
        level="fast",
    )
    await bus.publish(QueryReceived(envelope=envelope, query=query))
    with anyio.fail_after(120):
        while await bus.last(EpisodeRecorded, envelope.turn_id, stream=EPISODES) is None:
            await anyio.sleep(0.05)
    answer = await bus.last(AnswerReady, envelope.turn_id)
    assert answer is not None
    return answer


def session_envelope(session: str) -> Envelope:
    return new_turn(tenant=session, session_id=session, timeout=120.0)


def adapter_digest(answer: AnswerReady) -> str:
    """The digest of the adapter that answered."""
    (use,) = answer.inference.candidates[0].adapters
    assert use.name == ADAPTER
    return use.sha256


async def run_dreamer(runtime: Runtime, session: str, step: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run the stand-in once, until it is done or has killed itself after ``step``."""
    command = [sys.executable, dreamer.__file__, runtime.nats, ADAPTER, session, *([step] if step else [])]

    def run() -> "subprocess.CompletedProcess[str]":
        variables = {**os.environ, "NATS_NKEY": str(runtime.bus.login.nkey)}
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600, check=False)

    return await anyio.to_thread.run_sync(run)


async def list_record_ids(bus: Bus, session: str) -> list[int]:
    """The numbers of a session's records."""
    messages = reading.read_stream(bus, EPISODES, [bus.subjects.stage(EpisodeRecorded.subject)])
    events = [(message.seq, decode(EpisodeRecorded, message.data)) async for message in messages]
    return [number for number, event in events if event.episode.session_id == session]


async def list_consumed_ids(bus: Bus, session: str) -> list[int]:
    """What a session's dreamer has marked, in order."""
    marks = await read_events(bus, SERVICES, EpisodesConsumed.subject, EpisodesConsumed)
    return [number for event in marks if event.name == dreamer.service_name(session) for number in event.ids]


async def list_dream_reports(bus: Bus, episodes: list[int]) -> list[Any]:
    """The log's entries about any of these records."""
    reports = [event.report for event in await read_events(bus, DREAMLOG, DreamDone.subject, DreamDone)]
    return [report for report in reports if set(report.record_ids) & set(episodes)]


async def read_events(bus: Bus, stream: str, subject: str, kind: Any) -> list[Any]:
    messages = reading.read_stream(bus, stream, [bus.subjects.stage(subject)])
    return [decode(kind, message.data) async for message in messages]


@pytest.mark.parametrize("turns", [4, pytest.param(14, marks=pytest.mark.soak)])
async def test_a_dialogue_is_dreamt_though_the_dreamer_dies_at_every_step(runtime: Runtime, turns: int) -> None:
    session = f"dialogue-{turns}"
    async with connect(runtime.bus, name="test") as bus:
        prompts = [f"Name one part of circuit {number}." for number in range(turns)]
        answers = [await run_turn(bus, text, envelope=session_envelope(session)) for text in prompts]
        old = adapter_digest(answers[0])
        assert {adapter_digest(answer) for answer in answers} == {old}
        seen_digests = [old]
        for step in dreamer.STEPS:
            killed_run = await run_dreamer(runtime, session, step)
            assert killed_run.returncode == -signal.SIGKILL, killed_run.stdout + killed_run.stderr
            seen_digests.append((await export_adapter(bus)).sha256)
        last_run = await run_dreamer(runtime, session)
        assert last_run.returncode == 0, last_run.stdout + last_run.stderr

        episodes = await list_record_ids(bus, session)
        dreams = await list_dream_reports(bus, episodes)
        digests = [report.weight_delta.sha256 for report in dreams]
        assert len(digests) == -(-turns // dreamer.BATCH)
        assert await list_consumed_ids(bus, session) == episodes == sorted(episodes)
        assert [number for report in dreams for number in report.record_ids] == episodes
        assert [report.weight_delta.base_sha256 for report in dreams] == [old, *digests][:-1]
        assert set(seen_digests) <= {old, *digests}
        assert all(report.executed == ("replay", "downscale") for report in dreams)
        assert all(report.weight_delta.loss_after < report.weight_delta.loss_before for report in dreams)
        assert adapter_digest(await run_turn(bus, "One more question.")) == digests[-1] != old


EXPORT = ExportRequest(name=ADAPTER)


async def export_adapter(bus: Bus) -> ExportReply:
    return await bus.request(ADAPTERS_EXPORT, EXPORT, timeout=30)


async def store_changed_weights(bus: Bus, change: Callable[[Any], Any]) -> tuple[str, str]:
    """The digest in use, and that of an object with changed numbers."""
    current = await export_adapter(bus)
    tensors = load(await objects.get(bus, current.weights))
    changed_tensors = {key: change(value) if key.endswith("lora_b") else value for key, value in tensors.items()}
    return current.sha256, await objects.put(bus, save(changed_tensors))


def spoilt(value: Any) -> Any:
    value = value.copy()
    value[0, 0] = np.nan
    return value


BREAKS: dict[str, tuple[Callable[[Any], Any], dict[str, float]]] = {
    "S4": (lambda value: value * 0.99, {"a": 1.0, "b": 1.0}),
    "S2": (spoilt, {}),
    "S1": (lambda value: value[:, ::-1] * 400.0, {}),
}


@pytest.mark.soak
@pytest.mark.parametrize("invariant", BREAKS)
async def test_a_delta_that_breaks_an_invariant_changes_nothing(runtime: Runtime, invariant: str) -> None:
    change, priors = BREAKS[invariant]
    async with connect(runtime.bus, name="test") as bus:
        base, wrong = await store_changed_weights(bus, change)
        request = SwapRequest(
            episode_id=f"breaks-{invariant}", adapter=ADAPTER, sha256=wrong, base_sha256=base, attention_prior=priors
        )
        with pytest.raises(KikiError) as refusal:
            await bus.request(DREAM_SWAP, request, timeout=120)
        assert (refusal.value.code, refusal.value.param) == ("invariant_broken", invariant)
        rejection = await bus.last(AdapterRejected, request.episode_id, stream=ADAPTERS)
        assert rejection is not None
        assert (rejection.code, rejection.sha256) == ("invariant_broken", wrong)
        assert (rejection.gates[-1].name, rejection.gates[-1].passed) == (invariant, False)
        assert (await export_adapter(bus)).sha256 == base
        names = await bus.request(ADAPTERS_LS, AdapterListRequest(), timeout=30)
        assert {info.name for info in names.adapters} == {ADAPTER, OTHER}


async def test_a_request_in_flight_ends_with_the_adapter_it_began_with(runtime: Runtime) -> None:
    async with connect(runtime.bus, name="test") as bus:
        base, weights = await store_changed_weights(bus, lambda value: value * 0.999)
        stage = StageRequest(name=ADAPTER, weights=weights)
        stage_reply = await bus.request(ADAPTERS_STAGE, stage, timeout=30)
        envelope = new_turn(tenant="dreamt", session_id="flying", timeout=120.0)
        tokens = await bus.client.subscribe(bus.subjects.stage(InferToken.subject, envelope.turn_id))
        async with anyio.create_task_group() as tasks:
            long_answer = LongAnswer()
            tasks.start_soon(long_answer.run, bus, envelope)
            await tokens.next_msg(timeout=60)
            request = ExchangeRequest(name=ADAPTER, staged=stage_reply.staged, base_sha256=base)
            with pytest.raises(KikiError, match="waits for the verdict"):
                await bus.request(ADAPTERS_EXCHANGE, request, timeout=30)
            judge = JudgeRequest(name=ADAPTER, sha256=weights, staged=stage_reply.staged)
            assert (await bus.request(GATES_JUDGE, judge, timeout=60)).passed
            reply = await bus.request(ADAPTERS_EXCHANGE, request, timeout=30)
        assert (reply.sha256, adapter_digest(long_answer.answer)) == (weights, base)
        assert adapter_digest(await run_turn(bus, "And now?")) == weights


class LongAnswer:
    """A long answer, once it is there."""

    answer: AnswerReady

    async def run(self, bus: Bus, envelope: Envelope) -> None:
        self.answer = await run_turn(bus, "Tell a long story.", envelope=envelope, tokens=40)


@pytest.mark.soak
async def test_all_four_operations_yield_all_four_outputs(runtime: Runtime) -> None:
    async with connect(runtime.bus, name="test") as bus:
        for number in range(2):
            ring = SnapshotRequest(snapshot_id=f"snap{number}", species={"sem": (1.0, float(number))})
            await bus.request(DREAM_SNAPSHOT, ring, timeout=30)
        record = BetaRecord(id=1, context="What is a diode?", outcome="A valve.", saillance_score=0.5, timestamp=1.0)
        episode = DreamEpisode(
            episode_id="whole",
            trigger="saturation",
            input_slice=InputSlice(adapter=ADAPTER, beta_records=(record,), others=(OTHER,), snapshots=2),
            operation_set=("replay", "downscale", "restructure", "recombine"),
            output_channels=("weight_delta", "latent_sample", "hierarchy_chg", "attention_prior"),
            budget=Budget(flops=1e15, wall_time_s=120.0, energy_j=1e6),
        )
        result = await run_episode(bus, "P_max", episode)
        assert result.report is not None, result.message
        assert result.report.executed == episode.operation_set
        assert result.report.weight_delta is not None
        assert (
            result.report.weight_delta.base_sha256
            == (await export_adapter(bus)).sha256
            != result.report.weight_delta.sha256
        )
        assert [sample.species for sample in result.report.latent_sample] == ["sem"]
        assert result.report.hierarchy_chg == ()
        assert result.report.attention_prior == {ADAPTER: 0.5}
        poor = msgspec.structs.replace(
            episode, episode_id="poor", budget=Budget(flops=10.0, wall_time_s=120.0, energy_j=1e6)
        )
        with pytest.raises(KikiError) as refusal:
            await run_episode(bus, "P_max", poor)
        assert (refusal.value.code, refusal.value.param) == ("budget_exceeded", "episode.budget.flops")
