"""What waits for a broker that is away: how often that is told, and that nothing ends meanwhile."""

import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from bus import background
from bus.agent import Agent, Endpoint, run_agent
from bus.background import Outage
from bus.broker import run_broker, start, stop
from bus.connection import Bus, BusSettings, connect
from bus.errors import BrokerUnavailable
from bus.handler import Delivery, Handler
from bus.stream import measure_stream
from bus.topology import ANSWERS, DEAD, TURNS
from schemas.events import Event, QueryReceived, TurnCancelled
from schemas.status import StatusReply
from tests.bus.conftest import eventually, query, reply, run_consumer

pytestmark = pytest.mark.anyio

WAITING = "waiting for the broker"


class Reader:
    """An agent that reads a stream when it opens. ``failures`` says how often the broker is away then."""

    name = "reader"

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.entered = 0
        self.left = 0

    @contextlib.asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        self.entered += 1
        try:
            if self.entered <= self.failures:
                raise BrokerUnavailable("the stream cannot be read")
            await measure_stream(bus, TURNS)
            yield
        finally:
            self.left += 1

    def handlers(self) -> Sequence[Handler[Any]]:
        return ()

    def endpoints(self) -> Sequence[Endpoint]:
        return ()

    def status(self) -> StatusReply:
        return StatusReply(agent=self.name, ready=True)


async def test_an_agent_that_asks_the_broker_when_it_opens_waits_for_it(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "RETRY_SECONDS", 0.01)
    agent = Reader(failures=3)
    with capture_logs() as lines:
        async with anyio.create_task_group() as tasks:
            await tasks.start(run_agent, agent, bus)
            assert (agent.entered, agent.left) == (4, 3)  # what was half opened is released first
            tasks.cancel_scope.cancel()
    assert agent.left == 4
    assert [line["event"] for line in lines].count(WAITING) == 1


async def test_agents_of_one_process_wait_with_one_line(tmp_path: Path) -> None:
    agents: list[Agent] = [Reader(), Reader(), Reader()]
    async with contextlib.AsyncExitStack() as servers:
        server = await start(tmp_path, port=0)
        port = int(server.url.rsplit(":", 1)[1])
        async with connect(BusSettings(url=server.url, publish_timeout=0.3), name="test") as bus:
            await stop(server.process)
            with capture_logs() as lines:
                async with anyio.create_task_group() as tasks:
                    for agent in agents:
                        tasks.start_soon(run_agent, agent, bus)
                    await anyio.sleep(2.0)
                    await servers.enter_async_context(run_broker(tmp_path, port=port))

                    async def all_ready() -> bool:
                        return [line["event"] for line in lines].count("agent ready") == len(agents)

                    await eventually(all_ready)
                    tasks.cancel_scope.cancel()
    assert [line["event"] for line in lines].count(WAITING) == 1


async def test_a_consumer_waits_for_a_broker_that_is_away_without_a_word_from_each_slot(tmp_path: Path) -> None:
    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        return reply(event)

    server = await start(tmp_path, port=0)
    port = int(server.url.rsplit(":", 1)[1])
    async with connect(BusSettings(url=server.url, publish_timeout=0.3), name="test") as bus:
        await bus.reconcile()
        with capture_logs() as lines:
            async with run_consumer(bus, handle, concurrency=16):
                await stop(server.process)
                await anyio.sleep(4.0)
                async with run_broker(tmp_path, port=port):
                    event = query()

                    async def is_answered() -> bool:
                        try:
                            await bus.publish(event)
                            return await bus.last(TurnCancelled, event.envelope.turn_id) is not None
                        except BrokerUnavailable:
                            return False

                    await eventually(is_answered)
    events = [line["event"] for line in lines]
    assert events.count(WAITING) == 1
    assert events.count("subscription ended") == 0
    assert events.count("bus error received") <= 2  # the loss itself, and not each try to connect again


async def test_a_message_of_the_record_outlasts_a_broker_that_is_away(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "RETRY_SECONDS", 0.01)
    calls = 0

    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        nonlocal calls
        calls += 1
        if calls < 10:
            raise BrokerUnavailable("the stream cannot be read")
        return reply(event)

    event = query()
    async with run_consumer(bus, handle, max_deliver=2, until_deadline=False, outlasts=True):
        await bus.publish(event)

        async def is_answered() -> bool:
            return await bus.last(TurnCancelled, event.envelope.turn_id, stream=ANSWERS) is not None

        await eventually(is_answered)
    assert (calls, (await measure_stream(bus, DEAD)).messages) == (10, 0)


async def test_deliveries_while_the_broker_comes_and_goes_are_no_tries(bus: Bus) -> None:
    attempts: list[int] = []

    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        attempts.append(delivery.attempt)
        if len(attempts) < 5:
            raise BrokerUnavailable("the stream cannot be read")
        return reply(event)

    event = query()
    bus.outage.note_failure(BrokerUnavailable("nothing was stored"))
    async with run_consumer(bus, handle, max_deliver=2, retry_delay=0.01):
        await bus.publish(event)

        async def is_answered() -> bool:
            return await bus.last(TurnCancelled, event.envelope.turn_id) is not None

        await eventually(is_answered)
    assert attempts == [1, 2, 3, 4, 5]
    assert (await measure_stream(bus, DEAD)).messages == 0


def test_an_outage_is_told_once_and_its_end_when_it_is_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    state, error = Outage(), BrokerUnavailable("nothing was stored")
    with capture_logs() as lines:
        state.note_success()
        for seconds in (0.0, 1.0, 20.0):
            now += seconds
            state.note_failure(error)
            state.note_success()  # a cluster that elects leaders comes and goes
        now += background.STEADY_SECONDS + 1.0
        state.note_success()
        state.note_success()
        state.note_failure(error)
    events = [line["event"] for line in lines]
    assert events == [WAITING, "broker serves again", WAITING]
    assert lines[1]["seconds"] == 21.0 + background.STEADY_SECONDS + 1.0
