"""A memory that grows: the time of recalls, the bytes in memory and those on disk, at given numbers of episodes.

Recall reads Atlas alone, so only the first episodes go into Trace, too, to measure the bytes of each. Single writes
go through both stores. Vectors are drawn around topics, not embedded: 200,000 embeddings would take hours.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import numpy as np
import psutil
from msgspec import structs

from agents.memory import imports
from agents.memory.context import windows
from agents.memory.episodes import owner_key, store_key
from agents.memory.projection import project_episodes
from agents.memory.search import find
from agents.memory.stores.edge import EdgeAtlas
from agents.memory.stores.optimise import OptimisationRun, optimise_shard
from agents.memory.stores.pair import Stores
from agents.memory.stores.stored import Lookup
from runtime.bench.harness import fresh_stores
from schemas.episode import Episode

SESSION = 20
"""Episodes of a session."""

STORE_BATCH = 12 * SESSION
TENANTS = 4
"""The first tenant has half of all episodes, and all recalls are its."""

READER = "reader"
"""The user of each tenant."""

ASKER = owner_key("tenant0", READER, "")

QUERIES = 400
WRITES = 5
TRACED = 4800
"""Episodes that are stored in Trace as well."""

PAUSE = 0.02
"""Seconds between two recalls while the memory is optimised."""

CONCEPTS = 3
TOPICS = 400
VOCABULARY = 20_000
SENTENCE = 18


@dataclass(frozen=True)
class RecallTimes:
    """Milliseconds of recalls."""

    p50: float
    p99: float
    most: float


@dataclass(frozen=True)
class MemoryLevel:
    """What was measured with ``episodes`` episodes in the memory.

    Attributes:
        plain: recalls of a memory whose last episodes were never optimised; the state of most running memories.
        busy: recalls while a child process optimises on the same machine.
        optimised: recalls afterwards.
        visible: milliseconds from a write until recall finds it, the slowest of a few.
        placed: seconds for storing the episodes since the level before.
        seconds: seconds that optimising took, start to end.
        copied: seconds of it in which writes wait.
        memory: resident bytes of this process, file pages included.
        atlas: bytes on disk of Atlas, after optimising.
        trace: bytes on disk of Trace, for each of the first episodes.
    """

    episodes: int
    plain: RecallTimes
    busy: RecallTimes
    optimised: RecallTimes
    visible: float
    placed: float
    seconds: float
    copied: float
    memory: int
    atlas: int
    trace: float


async def measure(sizes: Sequence[int], *, tick: Callable[[int], None], vector_size: int = 768) -> list[MemoryLevel]:
    """Grow one memory through ``sizes``, optimising at each; ``tick`` is called with the number of episodes added."""
    async with fresh_stores(vector_size=vector_size) as stores:
        memory = _GrowingMemory(stores, _EpisodeSource(vector_size), tick)
        return [await memory.measure_level(size) for size in sorted(sizes)]


def per_million(levels: Sequence[MemoryLevel]) -> dict[str, float]:
    """Bytes that a million episodes take, from the slope between the smallest and the largest level."""
    if len(levels) < 2:
        return {}
    first, last = levels[0], levels[-1]
    more = last.episodes - first.episodes
    slopes = {name: 1e6 * (getattr(last, name) - getattr(first, name)) / more for name in ("memory", "atlas")}
    return {**slopes, "trace": 1e6 * last.trace}


class _GrowingMemory:
    """One memory that grows. Its sessions are stored whole, each episode with its neighbours."""

    def __init__(self, stores: Stores, source: "_EpisodeSource", tick: Callable[[int], None]) -> None:
        assert isinstance(stores.atlas, EdgeAtlas)
        self._atlas_store = stores.atlas.store
        self._stores = stores
        self._source = source
        self._tick = tick
        self._count = 0
        self._traced = 0
        self._trace = 0.0

    async def measure_level(self, size: int) -> MemoryLevel:
        """Grow to ``size`` and measure everything."""
        began = time.perf_counter()
        await self._grow(size)
        store_seconds = time.perf_counter() - began
        plain = await self._time_recalls(QUERIES)
        optimisation, busy = await self._optimise()
        after = await self._time_recalls(QUERIES)
        visible = max([await self._time_visible() for _ in range(WRITES)])
        return MemoryLevel(
            episodes=size,
            plain=plain,
            busy=busy,
            optimised=after,
            visible=1000 * visible,
            placed=store_seconds,
            seconds=optimisation.seconds,
            copied=optimisation.copied,
            memory=psutil.Process().memory_info().rss,
            atlas=_disk_bytes(self._atlas_store.directory),
            trace=self._trace,
        )

    async def _grow(self, size: int) -> None:
        while self._count < size:
            batch = list(itertools.islice(self._source.episodes, min(STORE_BATCH, size - self._count)))
            if self._traced < TRACED:
                await self._place_in_both(batch)
            else:
                await self._stores.atlas.place(batch, _neighbours(batch))
            self._count += len(batch)
            self._tick(len(batch))

    async def _place_in_both(self, batch: Sequence[Episode]) -> None:
        await project_episodes(self._stores, batch)
        self._traced += len(batch)
        if self._traced >= TRACED:
            self._trace = _disk_bytes(self._stores.settings.data_dir / "trace") / self._traced

    async def _optimise(self) -> tuple[OptimisationRun, RecallTimes]:
        """Optimise, and recall meanwhile."""
        durations: list[float] = []

        async def ask() -> None:
            while True:
                durations.append(await self._time_recall())
                await anyio.sleep(PAUSE)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            optimisation = await optimise_shard(self._atlas_store, self._stores.write_lock)
            tasks.cancel_scope.cancel()
        return optimisation, _recall_times(durations)

    async def _time_recalls(self, count: int) -> RecallTimes:
        return _recall_times([await self._time_recall() for _ in range(count)])

    async def _time_recall(self) -> float:
        source, settings = self._source, self._stores.settings
        lookup = Lookup(
            owner=ASKER,
            vector=source.vector(source.topic()),
            text=source.text(8),
            limit=settings.candidates,
        )
        began = time.perf_counter()
        await find(self._stores, lookup, now=time.time(), settings=settings)
        return time.perf_counter() - began

    async def _time_visible(self) -> float:
        """Seconds from writing an episode until recall finds it."""
        settings, vector = self._stores.settings, self._source.vector(0)
        line = imports.HistoryLine(text="the quick unheard quetzal", session="fresh")
        (entry,) = imports.date_lines([line], now=2e9 + time.time())
        episode = imports.build_event(entry, vector, tenant="tenant0", user=READER).episode
        began = time.perf_counter()
        await project_episodes(self._stores, [episode])
        lookup = Lookup(owner=ASKER, vector=vector, text=line.text, limit=settings.candidates)
        hits = await find(self._stores, lookup, now=time.time(), settings=settings)
        assert hits[0].match.episode_id == episode.episode_id
        return time.perf_counter() - began


class _EpisodeSource:
    """Made-up episodes: each vector lies around a topic's, words occur as often as in texts (Zipf's law)."""

    def __init__(self, size: int) -> None:
        self._random = np.random.default_rng(7)
        self._size = size
        self._topics = self._random.normal(size=(TOPICS, size))
        entries = imports.date_lines([imports.HistoryLine(text="template")], now=0.0)
        self._template = imports.build_event(entries[0], (), tenant="", user=READER).episode
        self.episodes: Iterator[Episode] = (self._episode(number) for number in itertools.count())

    def vector(self, topic: int) -> tuple[float, ...]:
        raw = self._topics[topic] + self._random.normal(size=self._size)
        return tuple((raw / np.linalg.norm(raw)).tolist())

    def text(self, words: int = SENTENCE) -> str:
        numbers = self._random.zipf(1.3, size=words) % VOCABULARY
        return " ".join(f"w{word}" for word in numbers)

    def topic(self) -> int:
        return int(self._random.integers(TOPICS))

    def _episode(self, number: int) -> Episode:
        session = number // SESSION
        tenant = f"tenant{0 if session % 2 == 0 else 1 + session % (TENANTS - 1)}"
        return structs.replace(
            self._template,
            episode_id=f"e{number}",
            turn_id=f"t{number}",
            session_id=f"s{session}",
            tenant=tenant,
            created_at=1e9 + number,
            question=self.text(),
            embedding=self.vector(self.topic()),
            concepts=tuple(f"w{word}" for word in self._random.zipf(1.3, size=CONCEPTS) % VOCABULARY),
        )


def _neighbours(batch: Sequence[Episode]) -> dict[str, dict[int, str]]:
    near: dict[str, dict[int, str]] = {}
    for at in range(0, len(batch), SESSION):
        names = [store_key(episode.tenant, "episode", episode.episode_id) for episode in batch[at : at + SESSION]]
        near |= windows(names, names)
    return near


def _recall_times(seconds: Sequence[float]) -> RecallTimes:
    milliseconds = sorted(1000 * duration for duration in seconds)
    return RecallTimes(
        p50=milliseconds[len(milliseconds) // 2], p99=milliseconds[int(len(milliseconds) * 0.99)], most=milliseconds[-1]
    )


def _disk_bytes(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())
