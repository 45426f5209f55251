"""Durable consumers on request, on a real broker."""

from typing import Any

import pytest

from bus.connection import Bus
from bus.consumers import (
    ConsumerDeclaration,
    acknowledge,
    create_consumer,
    delete_consumer,
    pull,
    read_consumer,
    read_consumers,
)
from bus.stream import append, find_last_before, measure_stream, purge, read_last, read_message, read_next
from bus.topology import SERVICES
from tests.bus.conftest import eventually

pytestmark = pytest.mark.anyio


async def create(bus: Bus, **changes: Any) -> bool:
    settings: dict[str, Any] = {
        "description": "A reader",
        "ack_wait": 5.0,
        "window": 8,
        "new_only": False,
        "metadata": {"kind": "reader"},
    }
    declaration = ConsumerDeclaration(name="reader", filters=[subject_of(bus, "*")], **(settings | changes))
    return await create_consumer(bus, SERVICES, declaration)


def subject_of(bus: Bus, name: str) -> str:
    return bus.subjects.stage("service.consumed", name)


async def test_a_consumer_gives_out_and_is_acknowledged_by_anybody(bus: Bus) -> None:
    assert await create(bus)
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


async def test_a_name_is_given_once(bus: Bus) -> None:
    assert await create(bus)
    assert not await create(bus, ack_wait=6.0)
    await delete_consumer(bus, SERVICES, "reader")
    await delete_consumer(bus, SERVICES, "reader")
    assert await read_consumer(bus, SERVICES, "reader") is None
    assert await create(bus, new_only=True)


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
