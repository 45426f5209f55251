"""``kiki bench recall``: what a memory costs as it grows, in milliseconds of a recall and in bytes."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from runtime.bench.harness import BenchReport, JsonOption, PictureOption, progress_bar, publish_report
from runtime.bench.memory.growth import TENANTS, TOPICS, MemoryLevel, measure, per_million
from runtime.bench.plots import Chart
from runtime.cli import command, run_async
from schemas.errors import InvalidInput

VECTORS = f"unit vectors around {TOPICS} topics, not embeddings; {TENANTS} tenants"
GOALS = (15.0, 40.0)
"""Milliseconds that the median and the 99th percentile of a recall may take at 50,000 episodes."""


@command
def recall(
    episodes: Annotated[str, typer.Option(help="Numbers of episodes, with commas.")] = "1000,10000,50000",
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Milliseconds of a recall, embedding excluded, and what memory and disk grow by."""
    levels = run_async(_measure_levels, _parse_sizes(episodes))
    publish_report(_report(levels), as_json=as_json, picture=picture)


async def _measure_levels(sizes: Sequence[int]) -> list[MemoryLevel]:
    with progress_bar("episodes", total=sizes[-1]) as tick:
        return await measure(sizes, tick=tick)


def _parse_sizes(text: str) -> list[int]:
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise InvalidInput(f"'{text}' is no list of numbers like 1000,10000.", param="episodes") from error
    if sizes[0] < 100:
        raise InvalidInput("a size is at least 100 episodes.", param="episodes")
    return sizes


def _report(levels: Sequence[MemoryLevel]) -> BenchReport:
    slope = per_million(levels)
    growth = ", ".join(f"{value / 1e9:.1f} GB {name}" for name, value in slope.items())
    fields = {
        "vectors": VECTORS,
        "unit": "ms",
        "levels": [asdict(level) for level in levels],
        "bytes_per_million": slope,
    }
    return BenchReport(
        bench="recall",
        fields=fields,
        tables=_tables(levels),
        notes=[*([f"a million episodes by the slope: {growth}"] if slope else []), VECTORS],
        chart=_chart(levels),
    )


def _tables(levels: Sequence[MemoryLevel]) -> tuple[Table, Table]:
    heads = ("not optimised", "while optimising", "longest", "optimised", "write visible")
    times = Table("episodes", *heads, title="recall: p50 / p99 ms, embedding excluded", box=None)
    sizes = Table("episodes", "optimising s", "copying s", "memory MB", "atlas MB", title="size", box=None)
    for level in levels:
        plain, busy, after = (
            f"{reading.p50:.1f} / {reading.p99:.1f}" for reading in (level.plain, level.busy, level.optimised)
        )
        times.add_row(f"{level.episodes}", plain, busy, f"{level.busy.most:.0f}", after, f"{level.visible:.0f}")
        megabytes = (f"{level.memory / 1e6:.0f}", f"{level.atlas / 1e6:.0f}")
        sizes.add_row(f"{level.episodes}", f"{level.seconds:.1f}", f"{level.copied:.2f}", *megabytes)
    return times, sizes


def _chart(levels: Sequence[MemoryLevel]) -> Chart:
    counts = [level.episodes for level in levels]

    def draw_times(axes: Any) -> None:
        for name, label in (("plain", "not optimised"), ("busy", "while optimising"), ("optimised", "optimised")):
            (line,) = axes.plot(
                counts, [getattr(level, name).p50 for level in levels], marker="o", label=f"p50 {label}"
            )
            p99 = [getattr(level, name).p99 for level in levels]
            axes.plot(counts, p99, marker="o", linestyle=":", color=line.get_color(), label=f"p99 {label}")
        for goal, style in zip(GOALS, ("-", ":"), strict=True):
            axes.axhline(goal, color="grey", linewidth=0.8, linestyle=style)
        axes.set(xscale="log", yscale="log", xlabel="episodes", ylabel="ms, embedding excluded")
        axes.set_title("recall (grey: goals at 50,000)")

    def draw_sizes(axes: Any) -> None:
        axes.plot(counts, [level.memory / 1e6 for level in levels], marker="o", label="memory of the process")
        axes.plot(counts, [level.atlas / 1e6 for level in levels], marker="o", label="Atlas on disk")
        axes.set(xlabel="episodes", ylabel="MB", title="size")

    def draw(columns: Any) -> None:
        for axes, draw_column, legend_columns in zip(columns, (draw_times, draw_sizes), (3, 2), strict=True):
            draw_column(axes)
            axes.legend(fontsize=7, ncols=legend_columns, loc="upper center", bbox_to_anchor=(0.5, -0.16))
            axes.grid(alpha=0.3)

    return Chart(draw=draw, caption=VECTORS, width=9, height=4.6, columns=2)
