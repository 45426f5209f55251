"""``kiki bench import``: how fast a history is imported, beside the embedder alone."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import structs
from rich.table import Table

from agents.memory.imports import DatedLine, HistoryLine, date_lines, read_history, refuse
from bus.connection import Bus
from runtime.bench.bias import CraftedTurn
from runtime.bench.harness import (
    BenchReport,
    JsonOption,
    PictureOption,
    fresh_runtime,
    progress_bar,
    publish_report,
    read_data,
)
from runtime.bench.intervals import PairedRatio, compare
from runtime.bench.plots import IntervalBar, interval_chart
from runtime.cli import command, read_text, run_async, settings_of
from runtime.local_embedder import BATCH, Embed, open_embedder
from runtime.local_memory import EMBEDDER
from runtime.records.transfer import import_entries
from schemas.envelope import PERSON

TENANT = "bench"
GOAL = 0.7
"""Share of the embedder's rate that an import should reach."""

AGENTS: dict[str, dict[str, Any]] = {EMBEDDER: {"cache_size": 0}}
"""Without a cache, so that both arms can embed the same texts."""


@command
def import_rate(
    file: Annotated[Path | None, typer.Argument(help="A history as 'kiki memory import' reads it.")] = None,
    lines: Annotated[int, typer.Option(min=BATCH, max=10_000, help="Lines of each arm.")] = 2 * BATCH,
    pairs: Annotated[int, typer.Option(min=2, max=100, help="Pairs to measure.")] = 4,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lines a second of an import until recall can find them, and of the embedder alone in the same batches."""
    history = read_lines(file, lines)
    comparison = run_async(_measure_pairs, history, lines, pairs)
    publish_report(_report(comparison, lines), as_json=as_json, picture=picture)


@dataclass(frozen=True)
class ImportRates:
    """Lines a second of both arms, and the import's share of the embedder's rate with its 95 % interval."""

    lines: int
    embedder: float
    imported: float
    share: float
    low: float
    high: float
    pairs: int


def find_rates(comparison: PairedRatio, lines: int) -> ImportRates:
    """The rates of a comparison whose first arm is the embedder, and whose second one is the import."""
    return ImportRates(
        lines=lines,
        embedder=lines / comparison.first,
        imported=lines / comparison.second,
        share=comparison.ratio,
        low=comparison.low,
        high=comparison.high,
        pairs=comparison.pairs,
    )


async def measure(
    bus: Bus, embed: Embed, history: Sequence[HistoryLine], *, lines: int, pairs: int, tick: Any = lambda: None
) -> PairedRatio:
    """Embed ``lines`` lines, and import them into a session that is new for each pair."""

    async def embed_lines(number: int) -> float:
        texts = [entry.line.embedding_text for entry in _chunk(history, lines, number)]
        began = time.perf_counter()
        for start in range(0, len(texts), BATCH):
            await embed(texts[start : start + BATCH])
        return time.perf_counter() - began

    async def import_lines(number: int) -> float:
        entries = _chunk(history, lines, number)
        began = time.perf_counter()
        await import_entries(bus, entries, embed, tenant=TENANT, user=PERSON, tick=lambda _: None)
        return time.perf_counter() - began

    return await compare(embed_lines, import_lines, pairs=pairs, tick=tick)


def read_lines(file: Path | None, lines: int) -> list[HistoryLine]:
    """The lines of a file, or else those of the crafted turns; repeated until there are ``lines``."""
    if file is None:
        texts = [text for turn in read_data("turns", CraftedTurn) for text in (turn.question, turn.answer)]
        history = [HistoryLine(text=text, speaker=("Ann", "Bob")[number % 2]) for number, text in enumerate(texts)]
    else:
        content = read_history(read_text(file))
        refuse(content.bad, source=str(file))
        history = [entry.line for entry in content.entries]
    return history * -(-lines // max(1, len(history)))


def _chunk(history: Sequence[HistoryLine], lines: int, number: int) -> list[DatedLine]:
    """The lines of the pair ``number``, in a session of their own."""
    start = number * lines % max(1, len(history) - lines + 1)
    chunk = history[start : start + lines]
    return date_lines(structs.replace(line, session=f"{number}", id=index) for index, line in enumerate(chunk))


async def _measure_pairs(history: Sequence[HistoryLine], lines: int, pairs: int) -> PairedRatio:
    settings = settings_of(log_level="warning", agents=AGENTS)
    async with fresh_runtime("memory") as bus, open_embedder(settings) as embed:
        await import_entries(bus, _chunk(history, BATCH, -1), embed, tenant=TENANT, user=PERSON, tick=lambda _: None)
        with progress_bar("pairs", total=pairs) as tick:
            return await measure(bus, embed, history, lines=lines, pairs=pairs, tick=tick)


def _report(comparison: PairedRatio, lines: int) -> BenchReport:
    rates = find_rates(comparison, lines)
    table = Table("", "lines/s", title=f"{lines} lines", box=None)
    table.add_row("embedder alone", f"{rates.embedder:.1f}")
    table.add_row("import", f"{rates.imported:.1f}")
    note = (
        f"share {rates.share:.2f} (goal {GOAL}), 95 % interval {rates.low:.2f} to {rates.high:.2f}, {rates.pairs} pairs"
    )
    bar = IntervalBar(label="import /\nembedder", middle=rates.share, low=rates.low, high=rates.high)
    return BenchReport(
        bench="import",
        fields={"unit": "lines/s", "goal": GOAL, **asdict(rates)},
        tables=[table],
        notes=[note],
        chart=interval_chart([bar], unit=f"ratio of rates, {rates.pairs} pairs, 95 % interval", baseline=GOAL),
    )
