"""Waiting for the catfish: stateless, so that a restarted negotiator waits just as a new one does.

Only the stream counts: when several publish a verdict, whatever its message id, the first that is stored is taken. The
core message only announces that an event may
have been stored.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from bus.connection import Bus, LiveMessage
from bus.consumers import read_consumers
from bus.subjects import covers
from bus.topology import TURNS
from bus.turns.events import find_first
from schemas.events import DissentRaised, DissentWaived, InferDone
from schemas.findings import Dissent, StageTiming

_KINDS: tuple[type[DissentRaised | DissentWaived], ...] = (DissentRaised, DissentWaived)

MAX_PAUSE_SECONDS = 1.0
"""Longest pause, in seconds, between two readings of the stream, in case the announcement is missed."""

MIN_PAUSE_SECONDS = 0.01
"""Seconds between the first readings of the stream: the announcement may come before the event is stored, or before
this process listens."""

LOOK_SECONDS = 2.0
"""Seconds for which it is not looked up again whether anybody objects."""


@dataclass(frozen=True, kw_only=True)
class CatfishFinding:
    """The catfish's finding and its share of the turn; no timing when it gave up."""

    dissent: Dissent
    timing: StageTiming | None


class DissentListener:
    """One turn's wait. Made by :func:`listen_for_dissent`, which subscribes before anything is read."""

    def __init__(self, bus: Bus, turn_id: str) -> None:
        self._bus = bus
        self._turn_id = turn_id
        self._announced = asyncio.Event()

    async def wake(self, _: LiveMessage) -> None:
        """Read the stream again: an event may have been stored."""
        self._announced.set()

    async def wait(self, seconds: float) -> CatfishFinding | None:
        """What the catfish found; None when nothing is stored within ``seconds``.

        Raises:
            Unavailable: the stream cannot be read.
        """
        end, pause = time.monotonic() + seconds, MIN_PAUSE_SECONDS
        while True:
            if finding := await self._read_stored():
                return finding
            seconds_left = end - time.monotonic()
            if seconds_left <= 0:
                return None
            try:
                await asyncio.wait_for(self._announced.wait(), min(seconds_left, pause))
                pause = MIN_PAUSE_SECONDS
            except TimeoutError:
                pause = min(2 * pause, MAX_PAUSE_SECONDS)
            self._announced.clear()

    async def _read_stored(self) -> CatfishFinding | None:
        event = await find_first(self._bus, _KINDS, self._turn_id, direct=True)
        if event is None:
            return None
        catfish_timings = [timing for timing in event.timings if timing.stage == "catfish"]
        return CatfishFinding(dissent=event.dissent, timing=catfish_timings[-1] if catfish_timings else None)


class Dissenters:
    """Whether anybody reads candidates to object to them, as the broker's consumers have it; looked up now and then."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._looked_at = -LOOK_SECONDS
        self._are_there = True

    async def are_there(self, bus: Bus) -> bool:
        """Whether somebody else has a durable consumer of the candidates, alive or being restarted.

        Raises:
            Unavailable: the broker is away.
        """
        if time.monotonic() - self._looked_at >= LOOK_SECONDS:
            candidates = bus.subjects.stage(bus.subjects.input_of(self._own, InferDone.subject))
            others = [consumer for consumer in await read_consumers(bus, TURNS) if consumer.name != self._own]
            self._are_there = any(covers(filter, candidates) for other in others for filter in other.filters)
            self._looked_at = time.monotonic()
        return self._are_there


@contextlib.asynccontextmanager
async def listen_for_dissent(bus: Bus, turn_id: str) -> AsyncIterator[DissentListener]:
    """Listen for the turn's dissent as long as the context lasts."""
    listener = DissentListener(bus, turn_id)
    stop_listening = await bus.listen(bus.subjects.stage("dissent.*", turn_id), listener.wake)
    try:
        yield listener
    finally:
        await stop_listening()
