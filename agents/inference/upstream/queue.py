"""Queues calls to the upstream: at most so many at once, ordered by lane and patience like the local batch's work."""

import contextlib
import time
from collections.abc import AsyncIterator, Sequence

import anyio

from agents.inference.scheduler import Running, Scheduler
from schemas.jobs import Lane


class CallQueue:
    """Lets ``places`` calls through at a time; ``patience`` in seconds, in the order of the lanes."""

    def __init__(self, places: int, *, patience: Sequence[float]) -> None:
        self._scheduler: Scheduler[anyio.Event] = Scheduler(max_rows=places, patience=patience)
        self.inside = 0

    def depth(self, lane: Lane) -> int:
        """Calls of one lane that wait."""
        return self._scheduler.depth(lane)

    @contextlib.asynccontextmanager
    async def hold_slot(self, lane: Lane) -> AsyncIterator[None]:
        """Wait until a place is free, and hold it while the context lasts."""
        admitted = anyio.Event()
        self._scheduler.add(admitted, key=None, lane=lane, rows=1, now=time.monotonic())
        self._admit()
        try:
            await admitted.wait()
            yield
        finally:
            if admitted.is_set():
                self.inside -= 1
            else:
                self._scheduler.discard([admitted])
            self._admit()

    def _admit(self) -> None:
        running = Running(keys=frozenset({None}) if self.inside else frozenset(), rows=self.inside)
        for waiting in self._scheduler.admit(running=running, now=time.monotonic()):
            self.inside += 1
            waiting.item.set()
