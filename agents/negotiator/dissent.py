"""Waiting for the catfish: stateless, so that a restarted negotiator joins as a new one does.

The first word counts. Whoever listens in time hears it on core NATS; who came too late, or again, reads what the stream
has kept, and it keeps the first of two catfish, too.
"""

import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import nats.errors
from nats.aio.subscription import Subscription

from bus.connection import Bus
from schemas.codec import decode
from schemas.events import DissentRaised, DissentWaived
from schemas.stages import Dissent, StageTiming

_KINDS: dict[str, type[DissentRaised | DissentWaived]] = {"raised": DissentRaised, "waived": DissentWaived}

FIRST_READ, LATER_READS = 0.004, 1.0
"""Seconds of silence after which the stream is read for what was said before anybody listened; ever more seldom."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """The catfish's finding and its share of the turn; no timing when it gave up."""

    dissent: Dissent
    timing: StageTiming | None


class Join:
    """One turn's wait. Made by :func:`join`, which subscribes before anything is read."""

    def __init__(self, bus: Bus, turn_id: str, said: Subscription) -> None:
        self._bus = bus
        self._turn_id = turn_id
        self._said = said

    async def wait(self, seconds: float) -> Heard | None:
        """What the catfish found; None when nothing is said within ``seconds``.

        Raises:
            Unavailable: the stream cannot be read.
            InvalidEvent: it is not what the contract promises.
        """
        end, pause = time.monotonic() + seconds, FIRST_READ
        while True:
            left = end - time.monotonic()
            try:
                message = await self._said.next_msg(timeout=max(0.0, min(left, pause)))
                return _heard(decode(_KINDS[message.subject.split(".")[-2]], message.data))
            except nats.errors.TimeoutError:
                pause = min(2 * pause, LATER_READS)
            if stored := await self._bus.last_of(tuple(_KINDS.values()), self._turn_id):
                return _heard(stored)
            if left <= 0:
                return None


def _heard(event: DissentRaised | DissentWaived) -> Heard:
    own = [timing for timing in event.timings if timing.stage == "catfish"]
    return Heard(dissent=event.dissent, timing=own[-1] if own else None)


@contextlib.asynccontextmanager
async def join(bus: Bus, turn_id: str) -> AsyncIterator[Join]:
    """Listen for the turn's dissent as long as the context lasts."""
    said = await bus.client.subscribe(bus.subjects.stage("dissent.*", turn_id))
    try:
        yield Join(bus, turn_id, said)
    finally:
        with contextlib.suppress(nats.errors.Error):
            await said.unsubscribe()
