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


async def progress(bus: Bus) -> ConsumerInfo | None:
    """The projection's consumer; None before it was first declared."""
    try:
        return await bus.js.consumer_info(EPISODES, PROJECTION)
    except NotFoundError:
        return None


def lag(found: ConsumerInfo | None) -> float:
    """Episodes recorded and not yet projected."""
    return float((found.num_pending or 0) + (found.num_ack_pending or 0)) if found else 0.0


async def caught_up(bus: Bus, last: int) -> None:
    """Wait until everything up to the stream sequence ``last`` is projected, or given up."""
    while True:
        found = await progress(bus)
        floor = found.ack_floor.stream_seq if found and found.ack_floor else 0
        if found is not None and (floor >= last or lag(found) == 0):
            return
        await anyio.sleep(_POLL)


async def forget(bus: Bus) -> None:
    """Remove the durable consumer; the next one begins at the first episode."""
    try:
        await bus.js.delete_consumer(EPISODES, PROJECTION)
    except NotFoundError:
        return
