"""How far the projection is behind the record."""

import anyio

from bus.connection import Bus
from bus.consumers import ConsumerState, delete_consumer, read_consumer
from bus.metrics import count_degraded
from bus.stream import measure_stream
from bus.topology import ANSWERS, EPISODES

RECORD = "memory-write"
"""Name of the durable consumer that records answers which nobody needs to take."""

TAKEN = "memory-taken"
"""Name of the durable consumer that records answers which their askers took."""

PROJECTION = "memory-projection"
"""Name of the durable consumer that projects the record into Atlas and Trace."""

_POLL = 0.02
"""Seconds between two readings of the consumer."""


async def read_progress(bus: Bus) -> ConsumerState | None:
    """The state of the projection's consumer; None before it was first declared."""
    return await read_consumer(bus, EPISODES, PROJECTION)


def lag(consumer: ConsumerState | None) -> float:
    """Episodes recorded and not yet projected."""
    return float(consumer.lag) if consumer else 0.0


async def wait_until_projected(bus: Bus) -> None:
    """Wait until everything that is recorded by now is projected, or given up.

    Raises:
        Unavailable: the broker is away.
    """
    last = (await measure_stream(bus, EPISODES)).last_seq
    while True:
        consumer = await read_progress(bus)
        if consumer is not None and (consumer.acknowledged >= last or consumer.lag == 0):
            return
        await anyio.sleep(_POLL)


async def wait_until_remembered(bus: Bus) -> None:
    """Wait until every answer that is ready by now is recorded, if it is to be, and projected.

    Raises:
        Unavailable: the broker is away.
    """
    last = (await measure_stream(bus, ANSWERS)).last_seq
    for name in (RECORD, TAKEN):
        while (consumer := await read_consumer(bus, ANSWERS, name)) is not None and consumer.lag:
            if consumer.acknowledged >= last:
                break
            await anyio.sleep(_POLL)
    await wait_until_projected(bus)


async def reset_progress_beyond_record(bus: Bus) -> None:
    """Begin again if the projection is further than the record, which has lost its end: the broker gives the lost
    sequences to new episodes, and the consumer would pass over them.

    Raises:
        Unavailable: the broker is away.
    """
    consumer, last = await read_progress(bus), (await measure_stream(bus, EPISODES)).last_seq
    if consumer is not None and consumer.delivered > last:
        count_degraded("record.cut", f"it ends at sequence {last}, and {consumer.delivered} was projected already.")
        await reset_progress(bus)


async def reset_progress(bus: Bus) -> None:
    """Remove the durable consumer; the next one begins at the first episode."""
    await delete_consumer(bus, EPISODES, PROJECTION)
