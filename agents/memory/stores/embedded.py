"""Runs an embedded store on a thread of its own, one call at a time; sets it aside when its files are broken."""

import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import anyio
import anyio.to_thread
import structlog

from agents.memory.stores.errors import BrokenStore, StoreStuck, refuse_forbidden_files
from bus import failpoints, metrics
from schemas.errors import Unavailable

BUSY = 5.0
"""Seconds that a call waits for an abandoned call that still runs."""


class Closable(Protocol):
    """An embedded store as this module needs it."""

    def close(self) -> None:
        """Release the files."""
        ...


S = TypeVar("S", bound=Closable)
T = TypeVar("T")

_log = structlog.get_logger("memory")


class EmbeddedStore(Generic[S]):
    """A store whose calls run on a thread, one at a time, never on the event loop.

    ``opener`` opens what is in the directory and raises :class:`BrokenStore` when that is no whole store; ``creator``
    makes an empty store in a directory that is not there. ``stuck`` is why it must be opened anew; else empty.
    """

    def __init__(
        self, name: str, directory: Path, *, opener: Callable[[Path], S], creator: Callable[[Path], S]
    ) -> None:
        self.name = name
        self.directory = directory
        self._opener = opener
        self._creator = creator
        self._limiter = anyio.CapacityLimiter(1)
        self._in_use = threading.Lock()  # an abandoned call gives its limiter back and runs on
        self._store: S | None = None
        self.stuck = ""

    async def run(self, call: Callable[[S], T], *, abandon: bool = False) -> T:
        """Run ``call`` with the store on the thread; with ``abandon`` a cancelled caller does not wait for it to end.

        Raises:
            Unavailable: the store is closed or busy, or the call failed.
        """
        return await self._on_thread(partial(self._call, call), abandon=abandon)

    async def write(self, call: Callable[[S], T]) -> T:
        """Run a ``call`` that writes to disk. Raises what :meth:`run` raises."""

        def pass_disk(store: S) -> T:
            failpoints.pass_window_in_thread("memory.disk")
            return call(store)

        return await self.run(pass_disk)

    async def load(self) -> bool:
        """Open the store in the directory; return False when there is none, or none that can be read.

        Raises:
            SetupError: this user may not read and write the files.
        """
        try:
            return await self._on_thread(self._load)
        except BrokenStore as error:
            metrics.count_degraded(f"{self.name}.broken", error.message)
            return False

    async def renew(self) -> None:
        """Begin with an empty store. An open one is removed; files that could not be opened are renamed and kept."""
        await self._on_thread(self._renew)

    async def exchange(self, change: Callable[[S], S]) -> None:
        """Replace the store by the one that ``change`` returns; when it raises, the store stays as it was.

        Raises:
            Unavailable: the store is closed or busy, or the change failed.
        """

        def apply_change(store: S) -> None:
            self._store = change(store)

        await self.run(apply_change)

    async def close(self) -> None:
        """Release the files once the running call is done."""
        await self._on_thread(self._close)

    async def _on_thread(self, call: Callable[[], T], *, abandon: bool = False) -> T:
        return await anyio.to_thread.run_sync(call, limiter=self._limiter, abandon_on_cancel=abandon)

    def _call(self, call: Callable[[S], T]) -> T:
        if not self._in_use.acquire(timeout=BUSY):
            raise Unavailable(f"the {self.name} is busy.")
        try:
            if self._store is None:
                raise Unavailable(f"the {self.name} is closed.")
            return call(self._store)
        except StoreStuck as error:
            self.stuck = error.message
            raise
        finally:
            self._in_use.release()

    def _load(self) -> bool:
        if not self.directory.is_dir():
            return False
        refuse_forbidden_files(self.directory)
        if not self._holds_files():
            return False
        self._store = self._opener(self.directory)
        return True

    def _renew(self) -> None:
        if self._store is not None:
            with suppress(Unavailable):  # damaged files may not even close; they are removed
                self._close()
            shutil.rmtree(self.directory)
        elif self._holds_files():
            aside = self.directory.with_name(f"{self.name}.broken-{time.time_ns()}")
            self.directory.rename(aside)
            _log.warning("broken store set aside", store=self.name, path=str(aside))
        self._store = self._creator(self.directory)

    def _holds_files(self) -> bool:
        return self.directory.is_dir() and any(self.directory.iterdir())

    def _close(self) -> None:
        with self._in_use:
            store, self._store = self._store, None
            if store is not None:
                store.close()
