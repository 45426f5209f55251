"""Remembers which requests were running when the worker died, to find and stop the one that kills it.

The journal is a small file that names the running requests; a worker that ends normally leaves it empty. Requests that
a new worker finds in it are suspects. Suspects run one by one, before anything else, so that after another death the
journal names only the request that caused it. A request that was alone at :data:`DEATHS` deaths is not run again: its
message uses up its tries and becomes a dead letter, and the others are not affected.
"""

import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio

from bus.metrics import count_degraded
from schemas.errors import StageFailed

DEATHS = 2
"""Deaths of the worker with one request alone in the journal, after which that request is not run again."""

PATIENCE = 20.0
"""Seconds that other requests wait for suspects, which may never be delivered here again (cancelled, or given to
another worker). After that those that did not come are suspects no more."""


class Quarantine:
    """Keeps the journal, and lets suspects run one by one.

    ``journal`` is the file; with None nothing is read or written. ``is_well`` says whether the model's thread is
    healthy: a request that ends while it is not stays in the journal.
    """

    def __init__(
        self, journal: Path | None, *, patience: float = PATIENCE, is_well: Callable[[], bool] = lambda: True
    ) -> None:
        self._journal, self._is_well = journal, is_well
        self._in_hand: set[str] = set()
        self._alone: dict[str, int] = {}
        self.suspects: set[str] = set()
        self._suspect_lock = anyio.Lock()
        self._changed = anyio.Event()
        self._until = time.monotonic() + patience
        self._read_journal()

    @contextlib.asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        """Keep one request in the journal while it runs. Suspects run one by one; the others wait for them, but not
        longer than the patience.

        Raises:
            StageFailed: the request has ended the worker too often. It is retryable, so that the message uses up its
                tries and becomes a dead letter.
        """
        if self._alone.get(name, 0) >= DEATHS:
            raise StageFailed(
                f"this request has ended the worker {self._alone[name]} times; it is not run again.", retryable=True
            )
        if name in self.suspects:
            async with self._suspect_lock:
                try:
                    async with self._track(name):
                        yield
                finally:
                    if self._is_well():  # it ran, however it ended, and the worker lives
                        self._clear({name})
            return
        await self._wait()
        async with self._track(name):
            yield

    @contextlib.asynccontextmanager
    async def _track(self, name: str) -> AsyncIterator[None]:
        self._in_hand.add(name)
        self._write_journal()
        try:
            yield
        finally:
            if self._is_well():  # otherwise the model's thread died with this request, which stays in the journal
                self._in_hand.discard(name)
                self._write_journal()

    async def _wait(self) -> None:
        while self.suspects and (seconds_left := self._until - time.monotonic()) > 0:
            with anyio.move_on_after(seconds_left):
                await self._changed.wait()
        if self.suspects:  # they did not come again, so that no later worker need wait for them
            self._clear(set(self.suspects) - self._in_hand)

    def _clear(self, names: set[str]) -> None:
        self.suspects -= names
        for name in names:
            self._alone.pop(name, None)
        self._write_journal()
        self._changed.set()
        self._changed = anyio.Event()

    def _read_journal(self) -> None:
        if self._journal is None or not self._journal.exists():
            return
        try:
            journal = json.loads(self._journal.read_text())
            in_hand, self._alone = [str(name) for name in journal["in_hand"]], dict(journal["alone"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            count_degraded("inference.quarantine", f"{self._journal.name} cannot be read: {error!r}")
            return
        if len(in_hand) == 1:
            self._alone[in_hand[0]] = self._alone.get(in_hand[0], 0) + 1
        killers = {name for name, deaths in self._alone.items() if deaths >= DEATHS}
        self.suspects = ({*in_hand} | self._alone.keys()) - killers
        self._write_journal()

    def _write_journal(self) -> None:
        """Write the file in place with one call, padded to its old length, so that a kill leaves the old text or the
        new."""
        if self._journal is None:
            return
        text = json.dumps({"in_hand": sorted(self._in_hand), "alone": self._alone}).encode()
        try:
            file = os.open(self._journal, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(file, text.ljust(os.fstat(file).st_size), 0)
            finally:
                os.close(file)
        except OSError as error:
            count_degraded("inference.quarantine", f"{self._journal.name} cannot be written: {error!r}")
