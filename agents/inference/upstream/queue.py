"""Queues calls to the upstream: at most so many at once, ordered by lane, patience and tenant like the local batch's
work."""

import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import anyio

from agents.inference.scheduler import Running, Scheduler
from schemas.jobs import Lane


class CallQueue:
    """Lets ``places`` calls through at a time; ``patience`` in seconds, in the order of the lanes."""

    def __init__(self, places: int, *, patience: Sequence[float]) -> None:
        self._scheduler: Scheduler[tuple[anyio.Event, str]] = Scheduler(
            max_rows=places, most_rows=places, patience=patience
        )
        self._inside: Counter[str] = Counter()

    @property
    def inside(self) -> int:
        """Calls that hold a place."""
        return self._inside.total()

    def depth(self, lane: Lane) -> int:
        """Calls of one lane that wait."""
        return self._scheduler.depth(lane)

    @contextlib.asynccontextmanager
    async def hold_slot(self, lane: Lane, tenant: str) -> AsyncIterator[None]:
        """Wait until a place is free, and hold it while the context lasts."""
        admitted = anyio.Event()
        self._scheduler.add((admitted, tenant), key=None, lane=lane, rows=1, now=time.monotonic(), tenant=tenant)
        self._admit()
        try:
            await admitted.wait()
            yield
        finally:
            if admitted.is_set():
                self._inside[tenant] -= 1
            else:
                self._scheduler.discard([(admitted, tenant)])
            self._admit()

    def _admit(self) -> None:
        self._inside = +self._inside  # without the tenants that have none
        running = Running(keys=frozenset({None}) if self._inside else frozenset(), rows=self._inside)
        for waiting in self._scheduler.admit(running=running, now=time.monotonic()):
            admitted, tenant = waiting.item
            self._inside[tenant] += 1
            admitted.set()
