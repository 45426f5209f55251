"""How long recall takes, and how much memory and disk it costs, at given numbers of episodes; embedding excluded.

Recall reads Atlas alone, so only the first episodes go into Trace, too: they tell what each takes there. Single writes
go through both stores. Vectors are drawn around topics, not embedded: 200,000 embeddings would take hours.
"""

import itertools
import tempfile
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
from agents.memory.episodes import key
from agents.memory.projection import apply
from agents.memory.search import find
from agents.memory.settings import MemorySettings
from agents.memory.stores.edge import EdgeAtlas
from agents.memory.stores.optimise import Optimised, optimised
from agents.memory.stores.pair import Stores
from agents.memory.stores.points import Ask
from schemas.episode import Episode

SESSION = 20
"""Episodes of a session."""

PLACED = 12 * SESSION
TENANTS = 4
"""The first tenant has half of all episodes and is the one who asks."""

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
class Times:
    """Milliseconds of recalls."""

    p50: float
    p99: float
    most: float


@dataclass(frozen=True)
class Level:
    """What was read at ``episodes``.

    Attributes:
        plain: recalls of a memory whose last episodes were never optimised; the state of most running memories.
        busy: recalls while a child process optimises on the same machine.
        optimised: recalls afterwards.
        visible: milliseconds from a write until recall finds it, the slowest of a few.
        placed: seconds for storing what came since the level before.
        seconds: seconds that optimising took, start to end.
        copied: seconds of it in which writes wait.
        memory: resident bytes of this process, with the file pages that the system keeps for it.
        atlas: bytes on disk of Atlas, after optimising.
        trace: bytes on disk of Trace, for each of the first episodes.
    """

    episodes: int
    plain: Times
    busy: Times
    optimised: Times
    visible: float
    placed: float
    seconds: float
    copied: float
    memory: int
    atlas: int
    trace: float


async def measure(sizes: Sequence[int], *, tick: Callable[[int], None], vector_size: int = 768) -> list[Level]:
    """Grow one memory through ``sizes``, optimising at each; ``tick`` hears how many episodes came."""
    with tempfile.TemporaryDirectory(prefix="kiki-recall-") as directory:
        settings = MemorySettings(data_dir=Path(directory), vector_size=vector_size)
        stores = Stores(settings)
        async with stores.opened(_nothing):
            grown = _Grown(stores, _Made(vector_size), tick)
            return [await grown.level(size) for size in sorted(sizes)]


def per_million(levels: Sequence[Level]) -> dict[str, float]:
    """Bytes that a million episodes take, from the slope between the smallest and the largest level."""
    if len(levels) < 2:
        return {}
    first, last = levels[0], levels[-1]
    more = last.episodes - first.episodes
    slopes = {name: 1e6 * (getattr(last, name) - getattr(first, name)) / more for name in ("memory", "atlas")}
    return {**slopes, "trace": 1e6 * last.trace}


class _Grown:
    """One memory that grows. Its sessions are stored whole, each episode with its neighbours."""

    def __init__(self, stores: Stores, made: "_Made", tick: Callable[[int], None]) -> None:
        assert isinstance(stores.atlas, EdgeAtlas)
        self._part = stores.atlas.part
        self._stores = stores
        self._made = made
        self._tick = tick
        self._count = 0
        self._traced = 0
        self._trace = 0.0

    async def level(self, size: int) -> Level:
        """Grow to ``size`` and read everything."""
        began = time.perf_counter()
        await self._grow(size)
        placed = time.perf_counter() - began
        plain = await self._times(QUERIES)
        done, busy = await self._optimise()
        after = await self._times(QUERIES)
        visible = max([await self._visible() for _ in range(WRITES)])
        return Level(
            episodes=size,
            plain=plain,
            busy=busy,
            optimised=after,
            visible=1000 * visible,
            placed=placed,
            seconds=done.seconds,
            copied=done.copied,
            memory=psutil.Process().memory_info().rss,
            atlas=_bytes(self._part.directory),
            trace=self._trace,
        )

    async def _grow(self, size: int) -> None:
        while self._count < size:
            batch = list(itertools.islice(self._made.episodes, min(PLACED, size - self._count)))
            if self._traced < TRACED:
                await self._place_in_both(batch)
            else:
                await self._stores.atlas.place(batch, _near(batch))
            self._count += len(batch)
            self._tick(len(batch))

    async def _place_in_both(self, batch: Sequence[Episode]) -> None:
        await apply(self._stores, batch)
        self._traced += len(batch)
        if self._traced >= TRACED:
            self._trace = _bytes(self._stores.settings.data_dir / "trace") / self._traced

    async def _optimise(self) -> tuple[Optimised, Times]:
        """Optimise, and ask on meanwhile."""
        taken: list[float] = []

        async def ask() -> None:
            while True:
                taken.append(await self._timed())
                await anyio.sleep(PAUSE)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            done = await optimised(self._part, self._stores.changing)
            tasks.cancel_scope.cancel()
        return done, _told(taken)

    async def _times(self, count: int) -> Times:
        return _told([await self._timed() for _ in range(count)])

    async def _timed(self) -> float:
        made, settings = self._made, self._stores.settings
        ask = Ask(tenant="tenant0", vector=made.vector(made.topic()), text=made.text(8), limit=settings.candidates)
        began = time.perf_counter()
        await find(self._stores, ask, now=time.time(), settings=settings)
        return time.perf_counter() - began

    async def _visible(self) -> float:
        """Seconds from writing an episode until recall finds it."""
        settings, vector = self._stores.settings, self._made.vector(0)
        line = imports.Line(text="the quick unheard quetzal", session="fresh", timestamp=2e9 + time.time())
        episode = imports.event(imports.told([line])[0], vector, tenant="tenant0").episode
        began = time.perf_counter()
        await apply(self._stores, [episode])
        ask = Ask(tenant="tenant0", vector=vector, text=line.text, limit=settings.candidates)
        found = await find(self._stores, ask, now=time.time(), settings=settings)
        assert found[0].match.episode_id == episode.episode_id
        return time.perf_counter() - began


class _Made:
    """Episodes about topics: vectors around a topic's, words drawn as texts draw them (Zipf)."""

    def __init__(self, size: int) -> None:
        self._random = np.random.default_rng(7)
        self._size = size
        self._topics = self._random.normal(size=(TOPICS, size))
        told = imports.told([imports.Line(text="template")], now=0.0)
        self._template = imports.event(told[0], (), tenant="").episode
        self.episodes: Iterator[Episode] = (self._episode(number) for number in itertools.count())

    def vector(self, topic: int) -> tuple[float, ...]:
        raw = self._topics[topic] + self._random.normal(size=self._size)
        return tuple((raw / np.linalg.norm(raw)).tolist())

    def text(self, words: int = SENTENCE) -> str:
        drawn = self._random.zipf(1.3, size=words) % VOCABULARY
        return " ".join(f"w{word}" for word in drawn)

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


def _near(batch: Sequence[Episode]) -> dict[str, dict[int, str]]:
    near: dict[str, dict[int, str]] = {}
    for at in range(0, len(batch), SESSION):
        names = [key(one.tenant, "episode", one.episode_id) for one in batch[at : at + SESSION]]
        near |= windows(names, names)
    return near


def _told(seconds: Sequence[float]) -> Times:
    ordered = sorted(1000 * one for one in seconds)
    return Times(p50=ordered[len(ordered) // 2], p99=ordered[int(len(ordered) * 0.99)], most=ordered[-1])


def _bytes(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


async def _nothing() -> None:
    """The stores begin empty; there is no record to project again."""
