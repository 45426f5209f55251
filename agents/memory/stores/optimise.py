"""Optimises Atlas while it is in use: a child process works on a copy, which then replaces the shard.

qdrant-edge holds the GIL for as long as it optimises, so it must not run in the agent's process. Writes go on
meanwhile, and are brought into the copy in chunks before the exchange. A recall waits for at most one such chunk, or
for loading the copy.
"""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import structlog
from msgspec import Struct
from prometheus_client import Counter, Gauge

from agents.memory.stores import generations, optimise_child
from agents.memory.stores.embedded import EmbeddedStore
from agents.memory.stores.points import Atlas
from bus import metrics
from schemas.errors import KikiError, Unavailable

CHUNK = 32
"""Changed points that are brought into the copy in one call on the store's thread: about 10 ms."""

MORE = 4
"""A shard is optimised again when it has grown by 1 / MORE."""

COPIES = 2
"""How often the files of the shard lie on the disk beside it while a run lasts, at most."""

RETRY = 600.0
"""Seconds until another try after one that failed."""

WAITING = Gauge("kiki_atlas_unoptimised", "Episodes since the last run", registry=metrics.REGISTRY)
RUNS = Counter("kiki_atlas_optimisations", "Runs by outcome", ["outcome"], registry=metrics.REGISTRY)
SECONDS = Gauge("kiki_atlas_optimisation_seconds", "Seconds that the last run took", registry=metrics.REGISTRY)

GROWTH_NICENESS = 19
"""How far a run after growth stands back: it gets what time nobody else wants."""

ERASURE_NICENESS = 5
"""How far a run stands back that takes forgotten words off the disk, which a busy machine must not put off for ever."""

_PIECE = 2**20
"""Bytes that are copied at a time."""

_log = structlog.get_logger("memory")


class OptimisationRun(Struct, frozen=True, kw_only=True):
    """What one run did: episodes in the new shard, seconds in all, seconds that writes waited for the copy, and
    whether it took forgotten words off the disk."""

    episodes: int
    seconds: float
    copied: float
    erased: bool = False


def is_due(atlas: Atlas, *, after: int) -> bool:
    """Whether ``after`` episodes, and a quarter of the earlier number, were added since the last run, or any deleted.

    Raises:
        Unavailable: the store failed.
    """
    return atlas.holds_deleted or atlas.count_unoptimised() >= max(after, atlas.count() // (MORE + 1))


async def optimise_shard(store: EmbeddedStore[Atlas], write_lock: anyio.Lock) -> OptimisationRun:
    """Optimise a copy, bring it up to date and put it in the shard's place.

    ``write_lock`` keeps writers out while the files are copied, while the copy is loaded and during the exchange.


    Raises:
        Unavailable: it failed, or the store was emptied meanwhile; the shard in use is as it was.
    """
    start = time.monotonic()
    is_erasing = await store.run(lambda atlas: atlas.holds_deleted)
    async with _copy_shard(store, write_lock) as (copy, copy_seconds):
        await _optimise_in_child(copy, niceness=ERASURE_NICENESS if is_erasing else GROWTH_NICENESS)
        async with write_lock:
            fresh = await store.run(lambda atlas: _load_copy(atlas, store.directory))
        try:
            while await store.run(lambda atlas: atlas.transfer_changes(fresh, most=CHUNK)) > CHUNK:
                pass
            async with write_lock:
                await store.exchange(lambda atlas: atlas.hand_over_to(fresh))
                await anyio.to_thread.run_sync(partial(generations.tidy, store.directory))
        except BaseException:
            await _discard(store, fresh)
            raise
    episodes = await store.run(lambda atlas: atlas.count())
    return OptimisationRun(episodes=episodes, seconds=time.monotonic() - start, copied=copy_seconds, erased=is_erasing)


async def optimise_whenever_due(
    store: EmbeddedStore[Atlas],
    write_lock: anyio.Lock,
    *,
    after: int,
    interval: float,
    require_room: Callable[..., None],
) -> None:
    """Optimise whenever it is :func:`is_due`, for ever. The pause after a run keeps it to a fifth of the time.

    ``require_room`` raises an Unavailable unless the disk has room for ``need`` bytes.
    """
    while True:
        await anyio.sleep(interval)
        try:
            WAITING.set(await store.run(lambda atlas: atlas.count_unoptimised()))
            if not await store.run(partial(is_due, after=after)):
                continue
            require_room(need=COPIES * measure_files(store.directory))
            run = await optimise_shard(store, write_lock)
        except KikiError as error:
            RUNS.labels("failed").inc()
            metrics.count_degraded("atlas.optimise", error.message)
            await anyio.sleep(RETRY)
            continue
        RUNS.labels("done").inc()
        SECONDS.set(run.seconds)
        _log.info("atlas optimised", episodes=run.episodes, seconds=round(run.seconds, 1), copied=round(run.copied, 2))
        await _rest(store, run, interval=interval)


async def _rest(store: EmbeddedStore[Atlas], run: OptimisationRun, *, interval: float) -> None:
    """Pause after a run; after one that erased nothing only until something is forgotten."""
    with anyio.move_on_after(MORE * run.seconds), contextlib.suppress(Unavailable):
        while run.erased or not await store.run(lambda atlas: atlas.holds_deleted):
            await anyio.sleep(interval)


async def _discard(store: EmbeddedStore[Atlas], fresh: Atlas) -> None:
    """Close the copy, unless it is the store in use by now."""
    with anyio.CancelScope(shield=True), contextlib.suppress(Unavailable):
        await store.run(lambda atlas: fresh.close() if atlas is not fresh else None)


@contextlib.asynccontextmanager
async def _copy_shard(store: EmbeddedStore[Atlas], write_lock: anyio.Lock) -> AsyncIterator[tuple[Path, float]]:
    """Copy the shard's files and remember its changes while the context lasts; yields the copy and seconds it took."""
    copy = generations.copy_directory(store.directory)
    try:
        async with write_lock:
            shard = await store.run(lambda atlas: atlas.start_tracking())
            start = time.monotonic()
            await anyio.to_thread.run_sync(partial(_copy_files, shard, copy))
        yield copy, time.monotonic() - start
    except OSError as error:
        raise Unavailable(f"the atlas was not optimised: {error}.") from error
    finally:
        with anyio.CancelScope(shield=True):
            with contextlib.suppress(Unavailable):  # the store is being closed
                await store.run(lambda atlas: atlas.stop_tracking())
            await anyio.to_thread.run_sync(partial(shutil.rmtree, copy, ignore_errors=True))


def _copy_files(shard: Path, copy: Path) -> None:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(shard, copy, copy_function=_copy_data)


def _copy_data(source: str, target: str) -> None:
    """Copy one sparse file without filling its holes: a small shard has hundreds of megabytes of them."""
    with open(source, "rb") as source_file, open(target, "wb") as target_file:
        size = os.fstat(source_file.fileno()).st_size
        target_file.truncate(size)
        end = 0
        while end < size:
            try:
                start = os.lseek(source_file.fileno(), end, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return  # only a hole is left
            end = os.lseek(source_file.fileno(), start, os.SEEK_HOLE)
            for at in range(start, end, _PIECE):
                piece = os.pread(source_file.fileno(), min(_PIECE, end - at), at)
                if os.pwrite(target_file.fileno(), piece, at) < len(piece):
                    raise OSError(errno.ENOSPC, "the disk took only a part of a file", target)


def measure_files(directory: Path) -> int:
    """Bytes that the files take on the disk, without the holes of sparse ones."""
    return sum(512 * path.stat().st_blocks for path in directory.rglob("*"))


def _load_copy(atlas: Atlas, directory: Path) -> Atlas:
    if not atlas.is_tracking:
        raise Unavailable("the atlas began anew (was emptied) while a copy of it was optimised.")
    return Atlas.load(generations.adopt(directory), size=atlas.size, words=atlas.words)


async def _optimise_in_child(copy: Path, *, niceness: int) -> None:
    """Optimise the copy in a child process. When this process dies, the child's standard input closes, and it ends
    too."""
    command = [sys.executable, "-m", optimise_child.__name__, str(copy), str(niceness)]
    async with await anyio.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as child:
        assert child.stderr is not None
        try:
            stderr = b"".join([part async for part in child.stderr])
            code = await child.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
    if code != 0:
        raise Unavailable(f"optimising the atlas failed ({code}): {stderr.decode(errors='replace').strip()[-300:]}")
