"""Whatever comes over the connection, and whoever is cancelled while it waits: the client goes on hearing."""

import asyncio
import json

import anyio
import pytest

from bus import dead_letters
from bus.connection import Bus
from bus.handler import Delivery
from schemas.codec import encode
from schemas.events import Event, QueryReceived, TurnCancelled
from tests.bus.conftest import eventually, query, reply, run_consumer

pytestmark = pytest.mark.anyio

HEARING_SECONDS = 5.0
"""Far less than the time after which a client notices that its broker does not answer."""


async def send_raw(bus: Bus, *lines: bytes) -> None:
    """Say to the broker what no client library would say, and wait until it has it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bus.broker_port)
    options = {"verbose": False, "pedantic": False, "headers": True}
    writer.write(b"".join((b"CONNECT ", json.dumps(options).encode(), b"\r\n", *lines, b"PING\r\n")))
    await writer.drain()
    with anyio.fail_after(HEARING_SECONDS):
        while not (line := await reader.readline()).startswith(b"PONG"):
            assert not line.startswith(b"-ERR"), line
    writer.close()
    await writer.wait_closed()


def publication(subject: bytes, head: bytes, data: bytes) -> bytes:
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (subject, len(head), len(head) + len(data), head, data)


@pytest.mark.parametrize("turns_of_the_loop", range(6))
async def test_a_cancelled_flush_makes_nobody_deaf(bus: Bus, turns_of_the_loop: int) -> None:
    flush = asyncio.create_task(bus.client.flush())
    for _ in range(turns_of_the_loop):
        await asyncio.sleep(0)
    flush.cancel()
    await asyncio.gather(flush, return_exceptions=True)
    with anyio.fail_after(HEARING_SECONDS):
        await bus.flush()
        await bus.js.account_info()


@pytest.mark.parametrize(
    "head",
    [
        b"NATS/1.0 \xff\xfe\xfd\r\n\r\n",
        b"NATS/1.0 503 \xff\xff\r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0 408 Request Timeout\r\nany: one\r\n\r\n",
        b"NATS/1.0\r\n\xff: \xff\r\n\r\n",
        b"NATS/1.0\r\nno colon\r\n\r\n",
        b"NATS/1.0\r\n\r\n",
        b"N",
    ],
)
async def test_headers_that_nobody_can_read_are_left_out(bus: Bus, head: bytes) -> None:
    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        return reply(event)

    event = query()
    async with run_consumer(bus, handle):
        await send_raw(bus, publication(bus.subjects.of(event).encode(), head, encode(event)))
        with anyio.fail_after(HEARING_SECONDS):
            await eventually(lambda: bus.last(TurnCancelled, event.envelope.turn_id))


async def test_a_subject_that_is_no_text_is_buried_and_makes_nobody_deaf(bus: Bus) -> None:
    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        return reply(event)

    event = query()
    async with run_consumer(bus, handle):
        await send_raw(bus, b"PUB kiki.query.received.\xff\xfe 2\r\n{}\r\n")
        await bus.publish(event)
        with anyio.fail_after(HEARING_SECONDS):
            await eventually(lambda: bus.last(TurnCancelled, event.envelope.turn_id))

        async def list_subjects() -> list[str]:
            return [entry.letter.subject async for entry in dead_letters.read_letters(bus)]

        assert await eventually(list_subjects) == ["kiki.query.received.\ufffd\ufffd"]
