"""Both stores of one directory: locked against a second process, each on a thread of its own, mended when broken."""

import shutil
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import anyio
import anyio.to_thread
import filelock
import structlog

from agents.memory.atlas import Atlas
from agents.memory.faults import BrokenStore
from agents.memory.settings import MemorySettings
from agents.memory.trace import Trace
from bus import metrics
from schemas.errors import SetupError, Unavailable

LOCK = "memory.lock"

BUSY = 5.0
"""Seconds that a call waits for one that was left behind and still runs."""

Forget = Callable[[], Awaitable[None]]
"""Makes the projection begin at the first episode again."""


class _Store(Protocol):
    def close(self) -> None: ...


S = TypeVar("S", bound=_Store)
T = TypeVar("T")

_log = structlog.get_logger("memory")


class Part(Generic[S]):
    """One store and its thread: at most one call at a time, never on the event loop."""

    def __init__(self, name: str, directory: Path, opener: Callable[[Path], S]) -> None:
        self.name = name
        self.directory = directory
        self._opener = opener
        self._limiter = anyio.CapacityLimiter(1)
        self._in_use = threading.Lock()  # an abandoned call gives its limiter back and runs on
        self._store: S | None = None

    async def run(self, call: Callable[[S], T], *, abandon: bool = False) -> T:
        """``call`` with the store, on its thread; ``abandon`` leaves it behind when the caller is cancelled.

        Raises:
            Unavailable: the store is closed or busy, or the call failed.
        """
        return await self._on_thread(partial(self._call, call), abandon=abandon)

    async def load(self) -> bool:
        """Open what is there. Whether there was something that can be read.

        Raises:
            SetupError: the store was made with other settings.
        """
        if not self.directory.is_dir() or not any(self.directory.iterdir()):
            return False
        try:
            await self._on_thread(self._open)
        except BrokenStore as error:
            metrics.degraded(f"{self.name}.broken", error.message)
            return False
        return True

    async def renew(self) -> None:
        """Begin with an empty store. One that was open is removed, one that would not open is set aside."""
        await self._on_thread(self._renew)

    async def close(self) -> None:
        """Release the files once the call in hand is done."""
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
        finally:
            self._in_use.release()

    def _open(self) -> None:
        self._store = self._opener(self.directory)

    def _renew(self) -> None:
        if self._store is not None:
            self._close()
            shutil.rmtree(self.directory)
        elif self.directory.is_dir() and any(self.directory.iterdir()):
            aside = self.directory.with_name(f"{self.name}.broken-{time.time_ns()}")
            self.directory.rename(aside)
            _log.warning("broken store set aside", store=self.name, path=str(aside))
        self._open()

    def _close(self) -> None:
        with self._in_use:
            store, self._store = self._store, None
            if store is not None:
                store.close()


class Stores:
    """Atlas and Trace in ``settings.data_dir``. ``changing`` is held by whoever writes into both or renews them."""

    def __init__(self, settings: MemorySettings) -> None:
        self.settings = settings
        atlas = partial(Atlas.open, size=settings.vector_size, language=settings.language)
        self.atlas = Part("atlas", settings.data_dir / "atlas", atlas)
        self.trace = Part("trace", settings.data_dir / "trace", partial(Trace.open, buffer=settings.graph_buffer))
        self.changing = anyio.Lock()

    @property
    def parts(self) -> tuple[Part[Any], ...]:
        """Both."""
        return (self.atlas, self.trace)

    @asynccontextmanager
    async def opened(self, forget: Forget) -> AsyncIterator[None]:
        """Open for as long as the context lasts; a store that is missing or broken begins empty.

        ``forget`` is awaited before anything begins empty, so that a crash in between projects too much, not too
        little.

        Raises:
            SetupError: another process has them, the directory cannot be written, or other settings made them.
        """
        async with _owned(self.settings):
            try:
                empty = [part for part in self.parts if not await part.load()]
                if empty:
                    await forget()
                for part in empty:
                    await part.renew()
                yield
            finally:
                with anyio.CancelScope(shield=True):
                    for part in self.parts:
                        await part.close()

    async def renew(self, forget: Forget) -> None:
        """Empty both and have everything projected again. The caller holds ``changing``."""
        await forget()
        for part in self.parts:
            await part.renew()


@asynccontextmanager
async def _owned(settings: MemorySettings) -> AsyncIterator[None]:
    directory = settings.data_dir
    lock = filelock.FileLock(directory / LOCK, timeout=settings.lock_timeout, thread_local=False)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        await anyio.to_thread.run_sync(lock.acquire)
    except filelock.Timeout as error:
        raise SetupError(
            f"another process has the memory in {directory}: stop it, or set another data directory.", param="data_dir"
        ) from error
    except OSError as error:
        raise SetupError(
            f"cannot write the memory in {directory} ({error.strerror}): free the disk, mend its permissions or set "
            "another data directory.",
            param="data_dir",
        ) from error
    try:
        yield
    finally:
        lock.release()
