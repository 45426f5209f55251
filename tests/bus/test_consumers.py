"""Durable consumers on request, on a real broker."""

from typing import Any

import pytest

from bus.connection import Bus
from bus.consumers import (
    ConsumerDeclaration,
    acknowledge,
    declare_consumer,
    delete_consumer,
    pull,
    read_consumer,
    read_consumers,
)
from bus.stream import append, find_last_before, measure_stream, purge, read_last, read_message, read_next
from bus.topology import SERVICES
from tests.bus.conftest import eventually

pytestmark = pytest.mark.anyio


async def create(bus: Bus, **changes: Any) -> None:
    settings: dict[str, Any] = {
        "description": "A reader",
        "ack_wait": 5.0,
        "window": 8,
        "after": 0,
        "metadata": {"kind": "reader"},
    }
    declaration = ConsumerDeclaration(name="reader", filters=[subject_of(bus, "*")], **(settings | changes))
    await declare_consumer(bus, SERVICES, declaration, removal="remove it")


def subject_of(bus: Bus, name: str) -> str:
    return bus.subjects.stage("service.consumed", name)


async def test_a_consumer_gives_out_and_is_acknowledged_by_anybody(bus: Bus) -> None:
    await create(bus)
    for number in range(3):
        await append(bus, subject_of(bus, "a"), b"%d" % number)
    async with pull(bus, SERVICES, "reader") as puller:
        messages = await puller.fetch(2, seconds=2.0)
        assert [message.stored.data for message in messages] == [b"0", b"1"]
        await messages[0].acknowledge()
    await acknowledge(bus, SERVICES, "reader", [2])

    async def is_acknowledged() -> bool:
        state = await read_consumer(bus, SERVICES, "reader")
        if state is None:
            return False
        return (state.acknowledged, state.delivered, state.pending, state.awaiting_ack) == (2, 2, 1, 0)

    await eventually(is_acknowledged)
    (state,) = await read_consumers(bus, SERVICES)
    assert (state.name, state.durable, state.lag) == ("reader", True, 1)
    assert state.metadata["kind"] == "reader"


async def test_a_consumer_begins_where_it_is_told_and_stays_where_it_is(bus: Bus) -> None:
    for number in range(4):
        await append(bus, subject_of(bus, "a"), b"%d" % number)
    await create(bus, after=2)
    await create(bus, after=3, ack_wait=6.0)
    assert (await bus.js.consumer_info(SERVICES, "reader")).config.ack_wait == 6.0
    async with pull(bus, SERVICES, "reader") as puller:
        (message,) = await puller.fetch(1, seconds=2.0)
        assert message.stored.data == b"2"
        await message.give_back()
        data = [(await puller.fetch(1, seconds=2.0))[0].stored.data for _ in range(2)]
        assert sorted(data) == [b"2", b"3"]
    await delete_consumer(bus, SERVICES, "reader")
    await delete_consumer(bus, SERVICES, "reader")
    assert await read_consumer(bus, SERVICES, "reader") is None


async def test_a_long_list_of_consumers_is_read_to_its_end(bus: Bus) -> None:
    for number in range(257):
        await bus.js.add_consumer(SERVICES, durable_name=f"c{number}", ack_policy="explicit", mem_storage=True)
    assert len(await read_consumers(bus, SERVICES)) == 257


async def test_nothing_to_give_out_is_an_empty_batch(bus: Bus) -> None:
    await create(bus)
    async with pull(bus, SERVICES, "reader") as puller:
        assert await puller.fetch(1, seconds=0.05) == []


async def test_single_messages_are_read_and_dropped(bus: Bus) -> None:
    for name in ("a", "b", "a"):
        await append(bus, subject_of(bus, name), name.encode())
    second = await read_message(bus, SERVICES, 2)
    assert second is not None
    assert (second.seq, second.subject, second.data) == (2, subject_of(bus, "b"), b"b")
    last = await read_last(bus, SERVICES, subject_of(bus, "a"))
    following = await read_next(bus, SERVICES, 2, subject_of(bus, "a"))
    assert last == following
    assert last is not None
    assert await find_last_before(bus, SERVICES, last.stored_at.timestamp()) == 2
    await purge(bus, SERVICES, before=2)
    await purge(bus, SERVICES, subject=subject_of(bus, "a"))
    assert await read_message(bus, SERVICES, 1) is None
    assert await read_last(bus, SERVICES, subject_of(bus, "a")) is None
    size = await measure_stream(bus, SERVICES)
    assert (size.messages, size.last_seq) == (1, 3)
