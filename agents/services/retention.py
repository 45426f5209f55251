"""What may be dropped from the record: only what every durable consumer of it has acknowledged."""

from datetime import UTC, datetime

import nats.errors
from nats.js.api import DeliverPolicy
from nats.js.errors import APIError

from bus.connection import Bus
from bus.reconciliation import probe_stream
from bus.record import find_acknowledged_floor
from bus.topology import EPISODES
from schemas.errors import Unavailable
from schemas.services import TrimReply


async def trim(bus: Bus, *, before: float) -> TrimReply:
    """Drop what was stored before that Unix time and is behind every durable consumer, the memory's own included.

    Raises:
        Unavailable: the broker is away.
    """
    try:
        last_before = await _find_last_before(bus, before)
        state = (await bus.js.stream_info(EPISODES)).state
        allowed, held_by = await find_acknowledged_floor(bus, state.last_seq)
        last = min(last_before, allowed)
        if last >= state.first_seq:
            await bus.js.purge_stream(EPISODES, seq=last + 1)
        dropped = state.messages - (await bus.js.stream_info(EPISODES)).state.messages
    except (TimeoutError, nats.errors.Error, APIError) as error:
        raise Unavailable(f"the record was not trimmed: {error or type(error).__name__}; ask again.") from error
    return TrimReply(dropped=max(0, dropped), held_by=held_by if allowed < last_before else "")


async def _find_last_before(bus: Bus, moment: float) -> int:
    """The sequence of the last message stored before ``moment``."""
    info = await probe_stream(
        bus.js,
        EPISODES,
        deliver_policy=DeliverPolicy.BY_START_TIME,
        opt_start_time=datetime.fromtimestamp(moment, UTC),
    )
    return int(info.delivered.stream_seq) if info.delivered else 0
