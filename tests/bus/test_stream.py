"""A stream is read in order from anywhere to its present end, and no consumer is left behind."""

import time
from contextlib import aclosing

import pytest

from bus import stream
from bus.connection import Bus
from bus.stream import StoredMessage, read_stream
from bus.topology import TURNS
from schemas.errors import Unavailable
from tests.bus.conftest import query

pytestmark = pytest.mark.anyio
SUBJECTS = ("kiki.query.received.*",)


async def read_all(bus: Bus, **options: object) -> list[StoredMessage]:
    async with aclosing(read_stream(bus, TURNS, SUBJECTS, **options)) as messages:  # type: ignore[arg-type]
        return [message async for message in messages]


async def test_reading_gives_the_whole_stream_or_a_part(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BATCH", 3)
    for number in range(10):
        event = query(text=f"question {number}")
        await bus.publish(event)
        await bus.js.publish(bus.subjects.stage("query.routed", event.envelope.turn_id), b"{}")
    everything = await read_all(bus)
    assert [message.seq for message in everything] == list(range(1, 20, 2))
    assert [message.seq for message in await read_all(bus, after=5, until=11)] == [7, 9, 11]
    middle = everything[4].stored_at.timestamp()
    assert [message.seq for message in await read_all(bus, since=middle - 1e-4)][:1] == [9]
    assert await read_all(bus, since=time.time() + 60) == []
    assert await bus.js.consumers_info(TURNS) == []


@pytest.mark.parametrize("status", ["503", "408", "404", "100"])
async def test_a_message_with_the_brokers_own_header_is_read_like_any_other(bus: Bus, status: str) -> None:
    for headers in (None, {"Status": status, "Description": "No Messages"}, None):
        await bus.js.publish(bus.subjects.stage("query.received", "any"), b"{}", headers=headers)
    assert [message.seq for message in await read_all(bus)] == [1, 2, 3]
    assert [message.seq for message in await read_all(bus, after=1)] == [2, 3]


async def test_a_message_deleted_during_reading_is_not_waited_for(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BATCH", 2)
    monkeypatch.setattr(stream, "PATIENCE", 0.2)
    for _ in range(6):
        await bus.publish(query())
    sequences = []
    async with aclosing(read_stream(bus, TURNS, SUBJECTS)) as messages:
        async for message in messages:
            sequences.append(message.seq)
            if message.seq == 2:
                for seq in (4, 5, 6):
                    await bus.js.delete_msg(TURNS, seq)
    assert sequences == [1, 2, 3]


async def test_a_slow_reader_outlives_its_consumer(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BATCH", 2)
    monkeypatch.setattr(stream, "STALE", 0.0)
    for _ in range(5):
        await bus.publish(query())
    sequences, names = [], set()
    async with aclosing(read_stream(bus, TURNS, SUBJECTS)) as messages:
        async for message in messages:
            sequences.append(message.seq)
            names |= {info.name for info in await bus.js.consumers_info(TURNS)}
    assert sequences == [1, 2, 3, 4, 5]
    assert len(names) > 1
    assert await bus.js.consumers_info(TURNS) == []


async def test_a_reader_that_stops_early_leaves_no_consumer(bus: Bus) -> None:
    for _ in range(4):
        await bus.publish(query())
    async with aclosing(read_stream(bus, TURNS, SUBJECTS)) as messages:
        async for _ in messages:
            break
    assert await bus.js.consumers_info(TURNS) == []


async def test_a_missing_stream_is_unavailable(bus: Bus) -> None:
    with pytest.raises(Unavailable, match="NOWHERE cannot be read"):
        await anext(read_stream(bus, "NOWHERE", SUBJECTS))
