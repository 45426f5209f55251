"""``kiki bench replay``: how many episodes a second come out of the record, as bytes, structs and lines of JSONL."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Annotated

import anyio
import numpy as np
import typer
from rich.table import Table

from agents.memory import imports
from agents.services.replay import encode_line, read_selection
from bus import record
from bus.connection import Bus
from bus.stream import StoredMessage, read_stream
from bus.topology import EPISODES
from runtime.bench.harness import BenchReport, JsonOption, PictureOption, fresh_broker, progress_bar, publish_report
from runtime.bench.plots import bar_chart
from runtime.cli import command, run_async
from schemas.codec import encode
from schemas.events import EpisodeRecorded
from schemas.services import Selection

DIMENSIONS = 768
AT_ONCE = 256
"""Episodes that are published concurrently."""

WORDS = 60
"""Words of an episode's text."""


@command
def replay(
    episodes: Annotated[int, typer.Option(min=100, max=1_000_000, help="Episodes in the record.")] = 10_000,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Episodes a second out of the record. Starts a broker of its own."""
    publish_report(_report(run_async(_measure_fresh, episodes)), as_json=as_json, picture=picture)


@dataclass(frozen=True)
class Rates:
    """Episodes a second: ``raw`` are bytes as they are stored, ``decoded`` validated structs, ``lines`` JSONL."""

    episodes: int
    bytes_each: int
    raw: float
    decoded: float
    lines: float


async def fill(bus: Bus, count: int, *, tick: Callable[[int], None]) -> int:
    """Record ``count`` episodes with embeddings of 768 floats. Returns the bytes of one.

    ``tick`` is called with the number of episodes of each batch.
    """
    random = np.random.default_rng(7)
    size = 0
    for at in range(0, count, AT_ONCE):
        batch = [_event(number, random) for number in range(at, min(count, at + AT_ONCE))]
        async with anyio.create_task_group() as tasks:
            for event in batch:
                tasks.start_soon(bus.publish, event)
        size = len(encode(batch[0]))
        tick(len(batch))
    return size


async def measure(bus: Bus, *, bytes_each: int, rounds: int = 3) -> Rates:
    """Read the whole record ``rounds`` times in each form; the best round counts, which other load disturbed least."""

    async def count_raw() -> int:
        return await _count(read_stream(bus, EPISODES, bus.subjects.episodes))

    async def count_decoded() -> int:
        return await _count(record.read_episodes(bus))

    async def count_lines() -> int:
        return await _count(_json_lines(bus))

    counts = (count_raw, count_decoded, count_lines)
    rates = [max([await _measure_rate(count) for _ in range(rounds)]) for count in counts]
    return Rates(await count_raw(), bytes_each, *rates)


async def _json_lines(bus: Bus) -> AsyncGenerator[bytes, None]:
    async with aclosing(read_selection(bus, Selection())) as messages:
        async for message in messages:
            yield encode_line(message)


async def _measure_rate(count_episodes: Callable[[], Awaitable[int]]) -> float:
    began = time.perf_counter()
    count = await count_episodes()
    return count / (time.perf_counter() - began)


async def _count(items: AsyncGenerator[StoredMessage | object, None]) -> int:
    count = 0
    async with aclosing(items):
        async for _ in items:
            count += 1
    return count


def _event(number: int, random: np.random.Generator) -> EpisodeRecorded:
    vector = random.normal(size=DIMENSIONS)
    vector /= np.linalg.norm(vector)
    text = " ".join(f"w{word}" for word in random.integers(20_000, size=WORDS))
    (entry,) = imports.date_lines(
        [imports.HistoryLine(text=text, session=number // 20, timestamp=1e9 + number, id=number)]
    )
    return imports.build_event(entry, tuple(vector.tolist()), tenant="bench")


async def _measure_fresh(episodes: int) -> Rates:
    async with fresh_broker() as bus:
        with progress_bar("recording", total=episodes) as tick:
            size = await fill(bus, episodes, tick=tick)
        return await measure(bus, bytes_each=size)


def _report(rates: Rates) -> BenchReport:
    by_form = {form: getattr(rates, form) for form in ("raw", "decoded", "lines")}
    title = f"{rates.episodes} episodes of {rates.bytes_each / 1000:.1f} kB out of the record"
    table = Table("as", "episodes/s", title=title, box=None)
    for form, rate in by_form.items():
        table.add_row(form, f"{rate:.0f}")
    return BenchReport(
        bench="replay",
        fields={"unit": "episodes/s", **asdict(rates)},
        tables=[table],
        chart=bar_chart(list(by_form), {"rate": list(by_form.values())}, unit="episodes/s"),
    )
