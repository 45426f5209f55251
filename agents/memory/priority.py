"""Recalls run before records: a client waits for a recall, and nobody waits for the record of an answer."""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio

PATIENCE = 0.05
"""Longest time, in seconds, that a record waits for recalls: under load there is always one running."""


class RecallPriority:
    """Recalls run at once; a record waits until no recall is running, at most :data:`PATIENCE` seconds."""

    def __init__(self) -> None:
        self._recalls = 0
        self._idle = anyio.Event()

    @contextmanager
    def mark_recall(self) -> Iterator[None]:
        """Count a recall as running for as long as the context lasts."""
        self._recalls += 1
        try:
            yield
        finally:
            self._recalls -= 1
            if not self._recalls:
                self._idle.set()
                self._idle = anyio.Event()

    async def wait_for_recalls(self) -> None:
        """Wait until no recall is running, at most :data:`PATIENCE` seconds."""
        with anyio.move_on_after(PATIENCE):
            while self._recalls:
                await self._idle.wait()
