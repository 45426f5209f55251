"""A turn that is awaited goes on for as long as somebody waits, and is cancelled once nobody does."""

import anyio
import msgspec
import pytest

from bus.connection import Bus, BusSettings, connect
from bus.handler import Delivery
from bus.turns import awaiting
from bus.turns.awaiting import is_awaited
from bus.turns.events import find_end
from schemas.envelope import new_turn
from schemas.events import Event, QueryReceived, TurnCancelled
from tests.bus.conftest import eventually, query, run_consumer

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _ask_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaiting, "ASK_SECONDS", 0.1)
    monkeypatch.setattr(awaiting, "GONE_SECONDS", 0.5)


def awaited_query(*, awaited: bool = True) -> QueryReceived:
    event = query(timeout=60)
    return msgspec.structs.replace(event, query=msgspec.structs.replace(event.query, awaited=awaited))


async def test_the_broker_knows_whether_somebody_waits(bus: Bus, nats_url: str) -> None:
    envelope = new_turn(tenant="tests", timeout=60)
    assert not await is_awaited(bus, envelope.turn_id)
    async with (
        connect(BusSettings(url=nats_url), name="asker") as asker,
        asker.follow(envelope, kinds=(), awaited=True),
    ):
        await asker.flush()
        assert await is_awaited(bus, envelope.turn_id)
    await eventually(lambda: is_left(bus, envelope.turn_id))


async def is_left(bus: Bus, turn_id: str) -> bool:
    return not await is_awaited(bus, turn_id)


async def test_a_turn_is_cancelled_when_its_askers_connection_ends(bus: Bus, nats_url: str) -> None:
    """As the broker sees it, a process that is killed."""
    began, ended = anyio.Event(), anyio.Event()

    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()
        raise AssertionError

    event = awaited_query()
    async with run_consumer(bus, handle):
        async with (
            connect(BusSettings(url=nats_url), name="asker") as asker,
            asker.follow(event.envelope, kinds=(), awaited=True),
        ):
            await bus.publish(event)
            await began.wait()
            await anyio.sleep(1.5)
            assert not ended.is_set()
            await asker.client.close()
        with anyio.fail_after(10):
            await ended.wait()
        end = await eventually(lambda: find_end(bus, event.envelope.turn_id))
    assert isinstance(end, TurnCancelled)
    assert end.reason == "its asker is gone"


async def test_an_asker_that_is_slow_to_say_so_still_waits(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaiting, "ANSWER_SECONDS", 0.1)
    await bus.client.subscribe(bus.subjects.awaits("t"))  # listens, and does not answer
    assert await is_awaited(bus, "t")


async def test_a_turn_that_nobody_needs_to_await_goes_on(bus: Bus) -> None:
    finished: list[str] = []

    async def handle(event: QueryReceived, delivery: Delivery) -> None:
        await anyio.sleep(2.0)
        finished.append(event.envelope.turn_id)

    event = awaited_query(awaited=False)
    async with run_consumer(bus, handle):
        await bus.publish(event)
        await eventually(lambda: _is_in(event.envelope.turn_id, finished))
    assert await find_end(bus, event.envelope.turn_id) is None


async def _is_in(name: str, names: list[str]) -> bool:
    return name in names
