"""A stream is read in order from anywhere to its present end, and no consumer is left behind."""

import time
from contextlib import aclosing

import pytest

from bus import stream
from bus.connection import Bus
from bus.stream import Stored, read
from bus.topology import TURNS
from schemas.errors import Unavailable
from tests.bus.conftest import query, reply

pytestmark = pytest.mark.anyio
SUBJECTS = ("kiki.query.received.*",)


async def found(bus: Bus, **options: object) -> list[Stored]:
    async with aclosing(read(bus, TURNS, SUBJECTS, **options)) as stored:  # type: ignore[arg-type]
        return [one async for one in stored]


async def test_all_of_it_or_a_part(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BATCH", 3)
    for number in range(10):
        event = query(text=f"question {number}")
        await bus.publish(event)
        await bus.publish(reply(event))
    everything = await found(bus)
    assert [one.seq for one in everything] == list(range(1, 20, 2))
    assert [one.seq for one in await found(bus, after=5, until=11)] == [7, 9, 11]
    middle = everything[4].stored_at.timestamp()
    assert [one.seq for one in await found(bus, since=middle - 1e-4)][:1] == [9]
    assert await found(bus, since=time.time() + 60) == []
    assert await bus.js.consumers_info(TURNS) == []


async def test_what_is_deleted_while_it_is_read_is_not_waited_for(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BATCH", 2)
    monkeypatch.setattr(stream, "PATIENCE", 0.2)
    for _ in range(6):
        await bus.publish(query())
    seen = []
    async with aclosing(read(bus, TURNS, SUBJECTS)) as stored:
        async for one in stored:
            seen.append(one.seq)
            if one.seq == 2:
                for seq in (4, 5, 6):
                    await bus.js.delete_msg(TURNS, seq)
    assert seen == [1, 2, 3]


async def test_a_slow_reader_outlives_its_consumer(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BATCH", 2)
    monkeypatch.setattr(stream, "STALE", 0.0)
    for _ in range(5):
        await bus.publish(query())
    seen, names = [], set()
    async with aclosing(read(bus, TURNS, SUBJECTS)) as stored:
        async for one in stored:
            seen.append(one.seq)
            names |= {info.name for info in await bus.js.consumers_info(TURNS)}
    assert seen == [1, 2, 3, 4, 5]
    assert len(names) > 1
    assert await bus.js.consumers_info(TURNS) == []


async def test_whoever_stops_early_leaves_nothing_behind(bus: Bus) -> None:
    for _ in range(4):
        await bus.publish(query())
    async with aclosing(read(bus, TURNS, SUBJECTS)) as stored:
        async for _ in stored:
            break
    assert await bus.js.consumers_info(TURNS) == []


async def test_a_stream_that_is_not_there(bus: Bus) -> None:
    with pytest.raises(Unavailable, match="NOWHERE cannot be read"):
        await anext(read(bus, "NOWHERE", SUBJECTS))
