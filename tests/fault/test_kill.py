"""kill -9 of each agent in the middle of a turn: the turn completes, once, and its episode is stored once."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import anyio
import msgspec
import pytest

from bus.agent import gather_reports
from bus.connection import Bus, connect
from bus.handler import FETCH_SECONDS
from bus.topology import ANSWERS, EPISODES, TURNS
from bus.turns.events import read_turn_events
from runtime.agents import REGISTRY
from schemas.chat import Message, Sampling
from schemas.envelope import Envelope, new_turn
from schemas.events import AnswerReady, EpisodeRecorded, Event, QueryReceived, TurnFailed
from schemas.findings import Level, Query
from tests.e2e.conftest import Runtime, start, stop
from tests.fault.test_memory_kill import REDELIVERY

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

TURN_SECONDS = 120.0

KILLS = tuple((spec.name, stage.name) for spec in REGISTRY for stage in spec.stages)
"""Agent and durable consumer of turns: what is killed while it holds which message."""

TRIES = 3

STOP_AT = {"antibias": "negotiate.done", "memory-write": "negotiate.done"}
"""When to stop a process that works in the turn before the consumer does."""

CAPITAL = "Name the capital of France."
QUESTIONS = {"antibias": "Who drives better, men or women?"}
"""Question for a consumer whose message comes from its own process: it is busy long enough to be caught."""


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory, small_model: Path, embedder_path: Path) -> Iterator[Runtime]:
    running = start(tmp_path_factory.mktemp("victim"), KIKI_AGENTS=json.dumps({"memory": REDELIVERY}))
    yield running
    stop(running)


@pytest.mark.parametrize(("agent", "consumer"), KILLS, ids=[kill[1] for kill in KILLS])
async def test_the_turn_completes_once(victim: Runtime, agent: str, consumer: str) -> None:
    async with connect(victim.bus, name="killer") as bus:
        pid = await wait_for_pid(bus, agent)
        try:
            for _ in range(TRIES):
                envelope = new_turn(tenant="fault", timeout=TURN_SECONDS)
                await ask_and_stop(bus, pid, envelope, STOP_AT.get(consumer), QUESTIONS.get(consumer, CAPITAL))
                if await wait_until_held(bus, pid, consumer, envelope):
                    break
            else:
                raise AssertionError(f"{consumer} was too quick to be caught {TRIES} times")
        finally:
            os.kill(pid, signal.SIGKILL)
        answer = await wait_for_answer(bus, envelope)
        assert answer.text
        await wait_until_settled(bus, envelope)
        events = [entry.event for entry in await read_turn_events(bus, envelope.turn_id)]
        assert count(events, AnswerReady) == 1
        assert count(events, EpisodeRecorded) == 1
        assert count(events, TurnFailed) == 0
        assert await wait_for_pid(bus, agent) != pid


async def test_a_worker_killed_while_it_streams_finishes_the_turn(victim: Runtime) -> None:
    async with connect(victim.bus, name="killer") as bus:
        pid = await wait_for_pid(bus, "inference")
        envelope = new_turn(tenant="fault", timeout=TURN_SECONDS)
        tokens = await bus.client.subscribe(bus.subjects.stage("infer.token", envelope.turn_id))
        await publish(bus, envelope, level="fast")
        await tokens.next_msg(timeout=TURN_SECONDS)
        os.kill(pid, signal.SIGKILL)
        assert (await wait_for_answer(bus, envelope)).text
        await wait_until_settled(bus, envelope)
        events = [entry.event for entry in await read_turn_events(bus, envelope.turn_id)]
        assert (count(events, AnswerReady), count(events, EpisodeRecorded)) == (1, 1)


async def test_a_projection_that_dies_is_made_once(victim: Runtime) -> None:
    async with connect(victim.bus, name="killer") as bus:
        first = new_turn(tenant="fault", timeout=TURN_SECONDS)
        await publish(bus, first, level="fast")
        await wait_until_settled(bus, first)
        original = await bus.last(EpisodeRecorded, first.turn_id, stream=EPISODES)
        assert original is not None
        pid = await wait_for_pid(bus, "memory")
        os.kill(pid, signal.SIGSTOP)
        try:
            turn = new_turn(tenant="fault", timeout=TURN_SECONDS)
            episode = msgspec.structs.replace(
                original.episode,
                turn_id=turn.turn_id,
                session_id=turn.session_id,
                episode_id=f"copy-{turn.turn_id}",
            )
            await bus.publish(EpisodeRecorded(envelope=turn, episode=episode))
            with anyio.fail_after(TURN_SECONDS):
                while not await has_unacknowledged(bus, EPISODES, "memory-projection"):
                    await anyio.sleep(0.01)
        finally:
            os.kill(pid, signal.SIGKILL)
        await wait_until_settled(bus, turn)
        record_count = (await bus.js.stream_info(EPISODES)).state.messages
        with anyio.fail_after(TURN_SECONDS):
            while await count_projected(bus) < record_count:
                await anyio.sleep(0.2)
        await anyio.sleep(1.0)  # a second copy would come now
        assert await count_projected(bus) == record_count


async def count_projected(bus: Bus) -> float:
    """Episodes in the vector store, by the memory agent's own count."""
    await wait_for_pid(bus, "memory")
    return next(
        report.status.gauges["atlas_episodes"]
        for report in await gather_reports(bus, expected=["memory"])
        if report.status.agent == "memory"
    )


def count(events: list[Event], kind: type[Event]) -> int:
    return sum(isinstance(event, kind) for event in events)


async def publish(bus: Bus, envelope: Envelope, *, level: Level = "full", question: str = CAPITAL) -> None:
    query = Query(
        model="micro-kiki",
        messages=(Message(role="user", content=question),),
        sampling=Sampling(max_tokens=12, seed=7),
        level=level,
    )
    await bus.publish(QueryReceived(envelope=envelope, query=query))


async def wait_for_pid(bus: Bus, agent: str) -> int:
    """The agent's process, once it reports ready."""
    with anyio.fail_after(TURN_SECONDS):
        while True:
            for report in await gather_reports(bus):
                if report.status.agent == agent and report.status.ready:
                    return report.pid
    raise AssertionError


async def wait_until_held(bus: Bus, pid: int, consumer: str, envelope: Envelope) -> bool:
    """Wait until the stopped process holds a message; False when the turn got past it.

    A pull request lives for a few seconds at the broker, so a process that is stopped long before its message
    comes is woken for a moment to pull again.
    """
    writes = consumer == "memory-write"
    end_event, stream = (EpisodeRecorded, EPISODES) if writes else (AnswerReady, ANSWERS)
    with anyio.fail_after(TURN_SECONDS):
        while True:
            with anyio.move_on_after(FETCH_SECONDS - 1.0):
                while not await has_unacknowledged(bus, ANSWERS if writes else TURNS, consumer):
                    if await bus.last(end_event, envelope.turn_id, stream=stream) is not None:
                        return False
                    await anyio.sleep(0.01)
                return True
            os.kill(pid, signal.SIGCONT)
            await anyio.sleep(0.1)
            os.kill(pid, signal.SIGSTOP)
    raise AssertionError


async def has_unacknowledged(bus: Bus, stream: str, consumer: str) -> bool:
    """Whether the consumer has a message that is not acknowledged."""
    return bool((await bus.js.consumer_info(stream, consumer)).num_ack_pending)


async def ask_and_stop(bus: Bus, pid: int, envelope: Envelope, after: str | None, question: str) -> None:
    """Ask, and stop the process with a signal, so that it certainly holds the turn's message when it is killed.

    A process that has an earlier part in the turn is stopped only once the event ``after`` is published.
    """
    if after is None:
        os.kill(pid, signal.SIGSTOP)
        await publish(bus, envelope, question=question)
        return
    os.kill(pid, signal.SIGCONT)  # an earlier try was too late and left it stopped
    waiting = await bus.client.subscribe(bus.subjects.stage(after, envelope.turn_id), max_msgs=1)
    await publish(bus, envelope, question=question)
    await waiting.next_msg(timeout=TURN_SECONDS)
    os.kill(pid, signal.SIGSTOP)


async def wait_for_answer(bus: Bus, envelope: Envelope) -> AnswerReady:
    with anyio.fail_after(TURN_SECONDS):
        while True:
            failure = await bus.last(TurnFailed, envelope.turn_id)
            assert failure is None, failure
            answer = await bus.last(AnswerReady, envelope.turn_id)
            if answer is not None:
                return answer
            await anyio.sleep(0.1)
    raise AssertionError


async def wait_until_settled(bus: Bus, envelope: Envelope) -> None:
    """Wait until the episode is recorded and every consumer has acknowledged what it got."""
    with anyio.fail_after(TURN_SECONDS):
        while await bus.last(EpisodeRecorded, envelope.turn_id, stream=EPISODES) is None:
            await anyio.sleep(0.1)
        for stream in (TURNS, ANSWERS, EPISODES):
            for info in await bus.js.consumers_info(stream):
                while (await bus.js.consumer_info(stream, info.name)).num_ack_pending:
                    await anyio.sleep(0.1)
