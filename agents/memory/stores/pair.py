"""Opens Atlas and Trace as the settings choose them, and locks their directory against a second process."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import NoReturn

import anyio
import anyio.to_thread
import filelock

from agents.memory.settings import MemorySettings
from agents.memory.stores import optimise
from agents.memory.stores.edge import EdgeAtlas
from agents.memory.stores.errors import StoreStuck
from agents.memory.stores.protocols import AtlasStore, Graph, Store
from agents.memory.stores.room import require_room
from agents.memory.stores.trace import Trace
from bus import metrics
from schemas.errors import SetupError

LOCK = "memory.lock"

RestartProjection = Callable[[], Awaitable[None]]
"""Makes the projection begin again at the first episode."""

CountWaiting = Callable[[], Awaitable[int]]
"""Counts the episodes of the record that are not projected yet."""


class Stores:
    """Atlas and Trace. Whoever writes into both stores, or empties them, holds ``write_lock``."""

    def __init__(self, settings: MemorySettings) -> None:
        self.settings = settings
        self.atlas = _atlas(settings)
        self._graph = _graph(settings)
        self.trace = Trace(self._graph)
        self.write_lock = anyio.Lock()

    @property
    def away(self) -> str:
        """Why a store's server cannot be used at the moment; empty when both answer, or are on this machine."""
        return " ".join(store.away for store in self.both if store.away)

    @property
    def both(self) -> tuple[Store, ...]:
        """Atlas, and the graph under Trace."""
        return (self.atlas, self._graph)

    @asynccontextmanager
    async def open(
        self, restart_projection: RestartProjection, count_waiting: CountWaiting | None = None
    ) -> AsyncIterator[None]:
        """Open for as long as the context lasts; a store that is missing or broken begins empty, and one that lost
        episodes gets them again from the record.

        ``restart_projection`` is awaited before a store is emptied: after a crash in between, episodes are projected
        twice, and none is missing. ``count_waiting`` gives the number of episodes that are still to be projected.

        Raises:
            SetupError: another process has them open, the directory cannot be written, other settings made them, or a
                server does not answer.
        """
        async with _lock_directory(self.settings):
            try:
                empty = [store for store in self.both if not await store.load()]
                if empty:
                    await restart_projection()
                for store in empty:
                    await store.renew()
                if not empty and await self._lacks_episodes(count_waiting):
                    await restart_projection()
                yield
            finally:
                with anyio.CancelScope(shield=True):
                    for store in self.both:
                        await store.close()

    async def _lacks_episodes(self, count_waiting: CountWaiting | None) -> bool:
        """Whether a store is empty or holds fewer episodes than the other: files that open may have lost some.

        What the projection had in hand when it was killed may be in one of them alone; it is delivered again.
        """
        atlas, trace = await self.atlas.count(), await self.trace.count()
        in_hand = self.settings.projection_batch if count_waiting is None else await count_waiting()
        if abs(atlas - trace) <= in_hand and min(atlas, trace) > 0:
            return False
        if atlas != trace:
            name = "atlas" if atlas < trace else "trace"
            metrics.count_degraded(f"{name}.incomplete", f"{atlas} episodes in the atlas, {trace} in the trace.")
        return True

    async def end_once_stuck(self) -> NoReturn:
        """Wait until a store takes nothing more before it is opened anew, and raise that.

        Raises:
            StoreStuck: the process must end, to be started again: then its store is opened, or made from the record.
        """
        while True:
            for store in self.both:
                if store.stuck:
                    metrics.count_degraded(f"{store.name}.stuck", store.stuck)
                    raise StoreStuck(store.stuck)
            await anyio.sleep(self.settings.status_interval)

    async def optimise_whenever_due(self) -> None:
        """Optimise an embedded Atlas whenever that is due, for ever; a server optimises itself."""
        if isinstance(self.atlas, EdgeAtlas):
            after, interval = self.settings.optimise_after, self.settings.status_interval
            await optimise.optimise_whenever_due(
                self.atlas.store,
                self.write_lock,
                after=after,
                interval=interval,
                require_room=partial(require_room, self.settings),
            )

    async def renew(self, restart_projection: RestartProjection) -> None:
        """Empty both and have everything projected again. The caller holds ``write_lock``."""
        await restart_projection()
        for store in self.both:
            await store.renew()


def _atlas(settings: MemorySettings) -> AtlasStore:
    if settings.atlas == "qdrant":
        from agents.memory.stores.qdrant import QdrantAtlas

        return QdrantAtlas.of(settings)
    return EdgeAtlas(settings)


def _graph(settings: MemorySettings) -> Graph:
    if settings.trace == "neo4j":
        from agents.memory.stores.neo4j import Neo4jGraph

        return Neo4jGraph(settings)
    from agents.memory.stores.ladybug import LadybugGraph

    return LadybugGraph(settings)


@asynccontextmanager
async def _lock_directory(settings: MemorySettings) -> AsyncIterator[None]:
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
