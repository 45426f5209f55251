"""How many episodes a second come out of the record: bytes, structs, and lines of JSONL."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

import anyio
import numpy as np

from agents.memory import imports
from agents.services.replay import line, selected
from bus import record
from bus.connection import Bus
from bus.stream import Stored, read
from bus.topology import EPISODES
from schemas.codec import encode
from schemas.events import EpisodeRecorded
from schemas.services import Selection

DIMENSIONS = 768
AT_ONCE = 256
WORDS = 60
"""Words of an episode's text."""


@dataclass(frozen=True)
class Rates:
    """Episodes a second: ``raw`` are bytes as they are stored, ``decoded`` validated structs, ``lines`` JSONL."""

    episodes: int
    bytes_each: int
    raw: float
    decoded: float
    lines: float


async def fill(bus: Bus, count: int, *, tick: Callable[[int], None]) -> int:
    """Record so many episodes with embeddings of 768 floats; ``tick`` hears how many. Returns the bytes of one."""
    drawn = np.random.default_rng(7)
    size = 0
    for at in range(0, count, AT_ONCE):
        batch = [_event(number, drawn) for number in range(at, min(count, at + AT_ONCE))]
        async with anyio.create_task_group() as tasks:
            for event in batch:
                tasks.start_soon(bus.publish, event)
        size = len(encode(batch[0]))
        tick(len(batch))
    return size


async def measure(bus: Bus, *, bytes_each: int, rounds: int = 3) -> Rates:
    """Read the whole record a few times each way; the best of the rounds counts, as for any rate."""

    async def raw() -> int:
        return await _count(read(bus, EPISODES, bus.subjects.episodes))

    async def decoded() -> int:
        return await _count(record.episodes(bus))

    async def lines() -> int:
        return await _count(_lines(bus))

    found = [max([await _rate(way) for _ in range(rounds)]) for way in (raw, decoded, lines)]
    return Rates(await raw(), bytes_each, *found)


async def _lines(bus: Bus) -> AsyncGenerator[bytes, None]:
    async with aclosing(selected(bus, Selection())) as messages:
        async for stored in messages:
            yield line(stored)


async def _rate(way: Callable[[], Awaitable[int]]) -> float:
    began = time.perf_counter()
    count = await way()
    return count / (time.perf_counter() - began)


async def _count(items: AsyncGenerator[Stored | object, None]) -> int:
    count = 0
    async with aclosing(items):
        async for _ in items:
            count += 1
    return count


def _event(number: int, drawn: np.random.Generator) -> EpisodeRecorded:
    vector = drawn.normal(size=DIMENSIONS)
    vector /= np.linalg.norm(vector)
    text = " ".join(f"w{word}" for word in drawn.integers(20_000, size=WORDS))
    (told,) = imports.told([imports.Line(text=text, session=number // 20, timestamp=1e9 + number, id=number)])
    return imports.event(told, tuple(vector.tolist()), tenant="bench")
