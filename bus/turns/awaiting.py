"""Whether anybody still waits for a turn: its asker listens on a subject of the turn for as long as it waits.

The broker knows who listens, and tells a request at once that nobody does. So a turn is given up when its asker's
process is killed, and goes on when the asker is only slow.
"""

import time
from collections.abc import Callable, Sequence

import anyio
import structlog

from bus.connection import Bus
from bus.errors import BROKER_ERRORS, NOBODY_LISTENS
from schemas.envelope import Envelope
from schemas.events import TurnCancelled

ASK_SECONDS = 1.5
"""How often the askers of the turns in hand are asked whether they still wait."""

ANSWER_SECONDS = 1.0
"""Seconds that an asker may take to say that it waits; one that is slower counts as waiting."""

GONE_SECONDS = 5.0
"""Seconds for which nobody must listen before a turn is given up: an asker whose connection broke comes back sooner."""

_log = structlog.get_logger("bus")


async def is_awaited(bus: Bus, turn_id: str) -> bool:
    """Whether somebody waits for the turn. True where that cannot be known: the broker is away, the asker is slow."""
    try:
        await bus.client.request(bus.subjects.awaits(turn_id), b"", timeout=ANSWER_SECONDS)
    except NOBODY_LISTENS:
        return False
    except BROKER_ERRORS:
        return True
    return True


async def cancel_abandoned(bus: Bus, read_envelopes: Callable[[], Sequence[Envelope]]) -> None:
    """Cancel turns whose asker is gone, for ever: every stage drops them, down to the decode step.

    ``read_envelopes`` gives an envelope of each turn that is in hand and is awaited.

    Raises:
        Unavailable: the broker is away.
    """
    unheard_since: dict[str, float] = {}
    while True:
        await anyio.sleep(ASK_SECONDS)
        envelopes = {envelope.turn_id: envelope for envelope in read_envelopes()}
        unheard_since = {turn_id: since for turn_id, since in unheard_since.items() if turn_id in envelopes}
        for turn_id, envelope in envelopes.items():
            if turn_id in bus.cancellations:
                continue
            if await is_awaited(bus, turn_id):
                unheard_since.pop(turn_id, None)
            elif time.monotonic() - unheard_since.setdefault(turn_id, time.monotonic()) >= GONE_SECONDS:
                _log.warning("turn abandoned", turn_id=turn_id)
                gone = envelope.next(TurnCancelled.subject)
                await bus.publish(TurnCancelled(envelope=gone, reason="its asker is gone", retryable=True))
