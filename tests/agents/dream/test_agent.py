"""Dreams on a real bus without a worker: the queue, its order and its end, the log, the ring, and what is refused."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import msgspec
import pytest

from agents.dream import journal
from agents.dream.agent import DreamAgent
from agents.dream.beta import jsonl
from agents.dream.ring import read_latest
from agents.dream.settings import DreamSettings
from bus import stream
from bus.connection import Bus
from bus.storage import objects
from bus.testing import run_agents
from bus.topology import DREAMLOG, DREAMS, LATENTS
from schemas.calls import DREAM_FETCH, DREAM_REQUEST, DREAM_SNAPSHOT, DREAM_STATUS
from schemas.codec import decode, encode
from schemas.dream import (
    QUEUE,
    RING,
    BetaRequest,
    DreamAborted,
    DreamAccepted,
    DreamRequest,
    DreamStatus,
    DreamStatusRequest,
    Snapshot,
    SnapshotRequest,
)
from schemas.errors import InvalidInput, KikiError, SetupError
from schemas.services import EpisodeFilter
from tests.agents.dream.test_profiles import episode
from tests.agents.services.scenes import forget, make_episode_event, record, register, run_services

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def dreaming(bus: Bus, *, tries: int = 4) -> AsyncIterator[DreamAgent]:
    agent = DreamAgent(DreamSettings(worker_timeout=5.0, tries=tries))
    async with run_agents(bus, agent):
        yield agent


async def request(bus: Bus, name: str, **changes: Any) -> DreamAccepted:
    body = DreamRequest(profile="P_min", episode=episode("downscale", episode_id=name, **changes))
    return await bus.request(DREAM_REQUEST, body, timeout=5)


async def status(bus: Bus, name: str) -> DreamStatus:
    return await bus.request(DREAM_STATUS, DreamStatusRequest(episode_id=name), timeout=5)


async def wait_for_end(bus: Bus, name: str) -> DreamStatus:
    with anyio.fail_after(60):
        while (reply := await status(bus, name)).state in ("waiting", "unknown"):
            await anyio.sleep(0.05)
    return reply


async def test_an_episode_that_nobody_can_run_has_one_entry_that_says_why(bus: Bus) -> None:
    async with dreaming(bus):
        await request(bus, "lonely")
        assert (await status(bus, "lonely")).state == "waiting"
        outcome = await wait_for_end(bus, "lonely")
        assert (outcome.state, outcome.code) == ("aborted", "unavailable")
        assert outcome.report is not None
        assert outcome.report.adapter == "mine"
        await request(bus, "lonely")
        await anyio.sleep(0.3)
        assert (await status(bus, "never")).state == "unknown"
    entries = [entry async for entry in stream.read_stream(bus, DREAMLOG, [bus.subjects.stage("dream.aborted")])]
    assert [decode(DreamAborted, entry.data).report.episode_id for entry in entries] == ["lonely"]


async def test_the_queue_is_in_order_and_refuses_when_it_is_full(bus: Bus) -> None:
    async with dreaming(bus, tries=100):
        names = [f"de-{number}" for number in range(QUEUE)]
        for name in names:
            await request(bus, name)
        with pytest.raises(KikiError) as caught:
            await request(bus, "one-too-many")
        assert caught.value.code == "queue_full"
        assert (await request(bus, names[-1])).waiting == QUEUE
        waiting = await bus.js.consumer_info(DREAMS, "dream")
        assert waiting.delivered is not None
        assert (waiting.delivered.stream_seq, waiting.num_ack_pending) == (1, 1)


async def test_an_episode_over_its_budget_is_aborted_before_it_costs_anything(bus: Bus) -> None:
    async with dreaming(bus):
        nothing = msgspec.structs.replace(episode("downscale").budget, wall_time_s=0.0)
        await request(bus, "poor", budget=nothing)
        outcome = await wait_for_end(bus, "poor")
        assert (outcome.state, outcome.code, outcome.param) == (
            "aborted",
            "budget_exceeded",
            "episode.budget.wall_time_s",
        )


BAD: dict[str, tuple[str, bytes, str, str]] = {
    "an unknown profile": ("dream.request", b'"P_mid"', "invalid_event", "profile"),
    "a budget of NaN": ("dream.request", b'{"flops":NaN', "invalid_event", "episode.budget.flops"),
    "a slice without records": ("dream.request", b'["replay"]', "invalid_request", "episode.input_slice.beta_records"),
    "a profile that is too small": ("dream.request", b'["restructure"]', "invalid_request", "episode.operation_set"),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_wrong_request_is_answered_with_code_and_field(bus: Bus, case: str) -> None:
    verb, bad, code, param = BAD[case]
    sound = encode(DreamRequest(profile="P_min", episode=episode("downscale")))
    pieces = {b'"P_mid"': b'"P_min"', b'{"flops":NaN': b'{"flops":1000000000000000.0'}
    wrong = sound.replace(pieces.get(bad, b'["downscale"]'), bad)
    assert wrong != sound
    async with dreaming(bus):
        reply = await bus.client.request(bus.subjects.service(verb), wrong, timeout=5)
        refusal = json.loads(reply.data)
        assert (refusal["code"], refusal["param"]) == (code, param)
        assert (await bus.js.stream_info(DREAMS)).state.messages == 0


async def test_the_ring_keeps_the_latest(bus: Bus) -> None:
    async with dreaming(bus):
        for number in range(3):
            body = SnapshotRequest(snapshot_id=f"s{number}", species={"sem": (float(number), 1.0)})
            reply = await bus.request(DREAM_SNAPSHOT, body, timeout=5)
        assert reply.kept == 3
        assert [snapshot["sem"][0] for snapshot in await read_latest(bus, 2)] == [2.0, 1.0]
        assert len(await read_latest(bus, RING)) == 3
    message = await bus.js.get_msg(LATENTS, seq=1)
    for number in range(RING):
        again = msgspec.structs.replace(decode(Snapshot, message.data or b""), species={"sem": (float(number),)})
        await bus.js.publish(bus.subjects.of(again), encode(again))
    assert (await bus.js.stream_info(LATENTS)).state.messages == RING
    assert len(await read_latest(bus, RING)) == RING


async def test_records_come_in_order_in_the_siblings_shape(bus: Bus) -> None:
    async with dreaming(bus), run_services(bus):
        await register(bus, "dreamer", filter=EpisodeFilter(min_saillance=0.5))
        for number, salience in enumerate((0.9, 0.1, 0.5)):
            event = make_episode_event(f"question {number}", salience=salience)
            embedded_episode = msgspec.structs.replace(event.episode, embedding=(0.6, 0.8))
            await bus.publish(msgspec.structs.replace(event, episode=embedded_episode))
        reply = await bus.request(DREAM_FETCH, BetaRequest(name="dreamer"), timeout=5)
        assert [(record.context, record.outcome, record.saillance_score) for record in reply.records] == [
            ("question 0", "yes", 0.9),
            ("question 2", "yes", 0.5),
        ]
        assert (reply.records[0].input, reply.records[0].x, reply.records[0].consumed_by) == ((0.6, 0.8), None, None)
        lines = [json.loads(line) for line in jsonl(reply.records).splitlines()]
        assert {"id", "context", "outcome", "saillance_score", "timestamp", "input"} <= lines[0].keys()
        with pytest.raises(KikiError) as caught:
            await bus.request(DREAM_FETCH, BetaRequest(name="stranger"), timeout=5)
        assert caught.value.code == "service_not_found"


async def test_objects_come_back_under_their_digest(bus: Bus) -> None:
    data = b"x" * 300_000
    digest = await objects.put(bus, data)
    assert await objects.put(bus, data) == digest
    assert await objects.get(bus, digest) == data
    with pytest.raises(InvalidInput, match="no object") as caught:
        await objects.get(bus, "0" * 64, param="weights")
    assert caught.value.param == "weights"


def test_a_retained_set_that_is_wrong_is_a_setup_error(tmp_path: Any) -> None:
    from agents.shared.retained import load_retained_set

    assert len(load_retained_set(None).questions) >= 20
    path = tmp_path / "set.jsonl"
    for text in ("", "x", '{"question":"q","choices":["a","b"],"answer":2}'):
        path.write_text(text)
        with pytest.raises(SetupError, match="retained set"):
            load_retained_set(path)
    with pytest.raises(SetupError, match="cannot be read"):
        load_retained_set(tmp_path / "none")


async def test_an_unreadable_message_hides_no_entry_of_the_dream_log_and_no_snapshot(bus: Bus) -> None:
    async with dreaming(bus):
        await request(bus, "one")
        ended = await wait_for_end(bus, "one")
        for kind in ("done", "aborted", "swapped"):
            await stream.append(bus, bus.subjects.stage(f"dream.{kind}", "one"), b"{")
        assert await status(bus, "one") == ended
        assert await journal.find_swap(bus, "one") is None
        body = SnapshotRequest(snapshot_id="s1", species={"sem": (1.0,)})
        await bus.request(DREAM_SNAPSHOT, body, timeout=5)
        await stream.append(bus, bus.subjects.stage("dream.snapshot", "s2"), b"{")
        assert await read_latest(bus, 2) == [{"sem": (1.0,)}]


async def test_tombstones_are_named_beside_the_records(bus: Bus) -> None:
    async with dreaming(bus), run_services(bus):
        await register(bus, "dreamer")
        (event,) = await record(bus, ["one"])
        await record(bus, ["two"])
        await forget(bus, event)
        reply = await bus.request(DREAM_FETCH, BetaRequest(name="dreamer"), timeout=5)
        assert ([entry.id for entry in reply.records], reply.tombstones) == ([2], (3,))
