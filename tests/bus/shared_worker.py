"""A process that takes questions from the consumer 'shared', and answers each a moment later with its own name."""

import sys

import anyio

from bus.connection import BusSettings, connect
from bus.handler import Consumer, Delivery, Handler
from schemas.events import Event, QueryReceived, TurnCancelled

SECONDS = 1.5
"""How long a question is in hand: all of a test's questions are there before the first is answered."""
STAGE = "shared"


async def work(url: str, name: str) -> None:
    """Take questions until the process is ended."""

    async def answer(event: QueryReceived, _: Delivery) -> Event:
        await anyio.sleep(SECONDS)
        return TurnCancelled(envelope=event.envelope.next(STAGE), reason=name)

    handler = Handler(stage=STAGE, event=QueryReceived, handle=answer, concurrency=64, shared=True)
    async with connect(BusSettings(url=url), name=name) as bus:
        consumer = Consumer(bus, handler)
        await consumer.declare()
        await consumer.run()


if __name__ == "__main__":
    anyio.run(work, sys.argv[1], sys.argv[2])
