"""How far the projection is behind the record."""

import anyio
from nats.js.api import ConsumerInfo
from nats.js.errors import NotFoundError

from bus.connection import Bus
from bus.topology import EPISODES

PROJECTION = "memory-projection"
"""The durable consumer that brings the record into Atlas and Trace."""

_POLL = 0.05
"""Seconds between two looks."""


async def read_progress(bus: Bus) -> ConsumerInfo | None:
    """The projection's consumer; None before it was first declared."""
    try:
        return await bus.js.consumer_info(EPISODES, PROJECTION)
    except NotFoundError:
        return None


def lag(consumer: ConsumerInfo | None) -> float:
    """Episodes recorded and not yet projected."""
    return float((consumer.num_pending or 0) + (consumer.num_ack_pending or 0)) if consumer else 0.0


async def wait_until_projected(bus: Bus, last: int) -> None:
    """Wait until everything up to the stream sequence ``last`` is projected, or given up."""
    while True:
        consumer = await read_progress(bus)
        floor = consumer.ack_floor.stream_seq if consumer and consumer.ack_floor else 0
        if consumer is not None and (floor >= last or lag(consumer) == 0):
            return
        await anyio.sleep(_POLL)


async def reset_progress(bus: Bus) -> None:
    """Remove the durable consumer; the next one begins at the first episode."""
    try:
        await bus.js.delete_consumer(EPISODES, PROJECTION)
    except NotFoundError:
        return
