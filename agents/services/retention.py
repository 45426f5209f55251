"""Dropping old messages from the record: only those that every registered service and every consumer has read."""

from bus.connection import Bus
from bus.errors import translate_errors
from bus.record import find_acknowledged_floor
from bus.stream import find_last_before, measure_stream, purge
from bus.topology import EPISODES
from schemas.services import TrimReply


async def trim(bus: Bus, *, before: float) -> TrimReply:
    """Drop the messages stored before a Unix time that every registered service has consumed and every other durable
    consumer, the memory's included, has acknowledged.

    Raises:
        Unavailable: the broker is away.
    """
    with translate_errors("the record was not trimmed", advice="ask again"):
        last_before = await find_last_before(bus, EPISODES, before)
        size = await measure_stream(bus, EPISODES)
        allowed, held_by = await find_acknowledged_floor(bus, size.last_seq)
        last = min(last_before, allowed)
        if last >= size.first_seq:
            await purge(bus, EPISODES, before=last + 1)
        dropped = size.messages - (await measure_stream(bus, EPISODES)).messages
    return TrimReply(dropped=max(0, dropped), held_by=held_by if allowed < last_before else "")
