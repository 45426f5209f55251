"""How long recall takes, and how much memory and disk it costs, at given numbers of episodes; embedding excluded.

Recall reads Atlas alone, so the bulk is placed there directly; single writes go through both stores.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from agents.memory import history
from agents.memory.atlas import Ask
from agents.memory.context import windows
from agents.memory.edge import EdgeAtlas
from agents.memory.finding import find
from agents.memory.optimising import optimised
from agents.memory.projection import apply
from agents.memory.record import key
from agents.memory.settings import MemorySettings
from agents.memory.stores import Stores
from schemas.episode import Episode

SESSION = 20
"""Episodes of a session."""

PLACED = 12 * SESSION
TENANTS = 4
"""The first tenant has half of all episodes and is the one who asks."""

QUERIES = 200
WRITES = 5
TOPICS = 400
VOCABULARY = 20_000
SENTENCE = 18


@dataclass(frozen=True)
class Level:
    """What was read at ``episodes``.

    Attributes:
        plain_p50, plain_p99: milliseconds of a recall before indexing.
        p50, p99: the same after it.
        visible: milliseconds from a write until recall finds it, the slowest of a few.
        placed: seconds for storing what came since the level before.
        optimised: seconds for indexing it.
        memory: resident bytes of this process.
        disk: bytes of the stores; Trace holds the few single writes only.
    """

    episodes: int
    plain_p50: float
    plain_p99: float
    p50: float
    p99: float
    visible: float
    placed: float
    optimised: float
    memory: int
    disk: int


async def measure(sizes: Sequence[int], *, tick: Callable[[int], None], vector_size: int = 768) -> list[Level]:
    """Grow one memory through ``sizes``, indexing at each; ``tick`` hears how many episodes came."""
    process = psutil.Process()
    with tempfile.TemporaryDirectory(prefix="kiki-recall-") as directory:
        settings = MemorySettings(data_dir=Path(directory), vector_size=vector_size)
        stores = Stores(settings)
        made = _Made(vector_size)
        levels = []
        async with stores.opened(_nothing):
            count = 0
            for size in sorted(sizes):
                began = time.perf_counter()
                while count < size:
                    batch = list(itertools.islice(made.episodes, min(PLACED, size - count)))
                    await _place(stores, batch)
                    count += len(batch)
                    tick(len(batch))
                placed = time.perf_counter() - began
                plain = sorted([await _timed(stores, made, settings) for _ in range(QUERIES)])
                began = time.perf_counter()
                assert isinstance(stores.atlas, EdgeAtlas)
                await optimised(stores.atlas.part, stores.changing)
                indexed = time.perf_counter() - began
                times = sorted([await _timed(stores, made, settings) for _ in range(QUERIES)])
                seen = sorted([await _visible(stores, made, settings) for _ in range(WRITES)])
                levels.append(
                    Level(
                        episodes=size,
                        plain_p50=1000 * plain[len(plain) // 2],
                        plain_p99=1000 * plain[int(len(plain) * 0.99)],
                        p50=1000 * times[len(times) // 2],
                        p99=1000 * times[int(len(times) * 0.99)],
                        visible=1000 * seen[-1],
                        placed=placed,
                        optimised=indexed,
                        memory=process.memory_info().rss,
                        disk=sum(path.stat().st_blocks * 512 for path in Path(directory).rglob("*") if path.is_file()),
                    )
                )
        return levels


def per_million(levels: Sequence[Level]) -> dict[str, float]:
    """Bytes that a million episodes take, from the slope between the smallest and the largest level."""
    if len(levels) < 2:
        return {}
    first, last = levels[0], levels[-1]
    more = last.episodes - first.episodes
    return {name: 1e6 * (getattr(last, name) - getattr(first, name)) / more for name in ("memory", "disk")}


class _Made:
    """Episodes about topics: vectors around a topic's, words drawn as texts draw them (Zipf)."""

    def __init__(self, size: int) -> None:
        self._random = np.random.default_rng(7)
        self._size = size
        self._topics = self._random.normal(size=(TOPICS, size))
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
        line = history.Line(text=self.text(), session=session, timestamp=1e9 + number, id=number)
        return history.event(history.told([line])[0], self.vector(self.topic()), tenant=tenant).episode


async def _place(stores: Stores, batch: Sequence[Episode]) -> None:
    """Whole sessions at once: each with its neighbours."""
    near: dict[str, dict[int, str]] = {}
    for at in range(0, len(batch), SESSION):
        names = [key(one.tenant, "episode", one.episode_id) for one in batch[at : at + SESSION]]
        near |= windows(names, names)
    await stores.atlas.place(batch, near)


async def _timed(stores: Stores, made: _Made, settings: MemorySettings) -> float:
    ask = Ask(tenant="tenant0", vector=made.vector(made.topic()), text=made.text(8), limit=settings.candidates)
    began = time.perf_counter()
    await find(stores, ask, now=time.time(), settings=settings)
    return time.perf_counter() - began


async def _visible(stores: Stores, made: _Made, settings: MemorySettings) -> float:
    """Seconds from writing an episode until recall finds it."""
    line = history.Line(text="the quick unheard quetzal", session="fresh", timestamp=2e9 + time.time())
    vector = made.vector(0)
    episode = history.event(history.told([line])[0], vector, tenant="tenant0").episode
    began = time.perf_counter()
    await apply(stores, [episode])
    ask = Ask(tenant="tenant0", vector=vector, text=line.text, limit=settings.candidates)
    found = await find(stores, ask, now=time.time(), settings=settings)
    assert found[0].match.episode_id == episode.episode_id
    return time.perf_counter() - began


async def _nothing() -> None:
    """The stores begin empty; there is no record to project again."""
