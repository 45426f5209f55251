"""``kiki bench overhead``: how much of a turn is bus and bookkeeping, that is its time without model and embedding."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.table import Table

from bus.connection import Bus
from runtime.agents import turn_stages
from runtime.bench.harness import (
    QUESTIONS,
    BenchReport,
    JsonOption,
    PictureOption,
    fresh_runtime,
    make_query,
    progress_bar,
    publish_report,
)
from runtime.bench.plots import bar_chart
from runtime.cli import command, run_async
from schemas.envelope import new_turn
from schemas.events import AnswerReady, QueryReceived
from schemas.findings import Level

WARM_UP = 3
"""Turns before those that count."""

PATH = tuple(stage.name for stage in turn_stages() if stage.position == "awaited")
"""The stages whose work the client waits for; catfish runs beside the negotiator, the write after the answer."""


@command
def overhead(
    turns: Annotated[int, typer.Option(min=5, max=1000, help="Turns to measure.")] = 40,
    level: Annotated[Level, typer.Option(help="What every turn goes through.")] = "full",
    max_tokens: Annotated[int, typer.Option(min=1, max=256, help="Tokens of each candidate.")] = 8,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bus and bookkeeping time of a turn, and each stage's share. Starts a runtime of its own."""
    timings = run_async(_measure_turns, turns, level, max_tokens)
    publish_report(_report(timings, level), as_json=as_json, picture=picture)


@dataclass(frozen=True)
class TurnTiming:
    """One measured turn in seconds. ``own`` is each stage's time without compute; ``hops`` the time between the stages.

    An embedding that ran during a hop, and that the turn would have waited for, is compute (``StageTiming.ahead``).
    """

    total: float
    compute: float
    own: dict[str, float]
    hops: float

    @property
    def overhead(self) -> float:
        """Bus and bookkeeping."""
        return self.total - self.compute


def measure(event: AnswerReady, *, published_at: float, answered_at: float) -> TurnTiming:
    """Take one answered turn apart; times are Unix seconds of one machine."""
    stages = {timing.stage: timing for timing in event.timings}
    path = [stages[name] for name in PATH if name in stages]
    compute_by_stage = {timing.stage: timing.compute for timing in path}
    if "negotiator" in compute_by_stage and "catfish" in stages:
        # The negotiator waits for the dissent, so the catfish's model time is on its path.
        with_dissent = compute_by_stage["negotiator"] + stages["catfish"].compute
        compute_by_stage["negotiator"] = min(stages["negotiator"].duration, with_dissent)
    own = {timing.stage: timing.duration - compute_by_stage[timing.stage] for timing in path}
    total = answered_at - published_at
    # Catfish and negotiator may both report the embedding pass that they waited for; it counts once.
    ahead = max((timing.ahead for timing in stages.values()), default=0.0)
    compute = sum(compute_by_stage.values()) + ahead
    hops = total - sum(timing.duration for timing in path) - ahead
    return TurnTiming(total=total, compute=compute, own=own, hops=hops)


@dataclass(frozen=True)
class Share:
    """One part of the overhead: median and 95th percentile in milliseconds, share of the overhead's sum."""

    part: str
    p50: float
    p95: float
    share: float


def shares(turns: Sequence[TurnTiming]) -> list[Share]:
    """The overhead by part, the whole of it last. Needs at least two turns."""
    parts = {name: [turn.own.get(name, 0.0) for turn in turns] for name in PATH}
    parts["hops"] = [turn.hops for turn in turns]
    whole = [turn.overhead for turn in turns]
    parts["overhead"] = whole
    return [_share(name, values, sum(whole)) for name, values in parts.items()]


def _share(part: str, values: Sequence[float], whole: float) -> Share:
    milliseconds = sorted(value * 1000 for value in values)
    return Share(
        part=part,
        p50=statistics.median(milliseconds),
        p95=statistics.quantiles(milliseconds, n=20)[-1],
        share=sum(values) / whole if whole else 0.0,
    )


async def _measure_turns(turns: int, level: Level, max_tokens: int) -> list[TurnTiming]:
    timings = []
    async with fresh_runtime() as bus:
        for number in range(WARM_UP):
            await _run_turn(bus, level, max_tokens, number)
        with progress_bar("turns", total=turns) as tick:
            for number in range(turns):
                timings.append(await _run_turn(bus, level, max_tokens, number))
                tick()
    return timings


async def _run_turn(bus: Bus, level: Level, max_tokens: int, number: int) -> TurnTiming:
    envelope = new_turn(tenant="bench", timeout=120.0)
    query = make_query(QUESTIONS[number % len(QUESTIONS)], level=level, max_tokens=max_tokens, seed=number)
    published_at = time.time()
    event = await bus.publish_and_wait(QueryReceived(envelope=envelope, query=query))
    return measure(event, published_at=published_at, answered_at=time.time())


def _report(timings: Sequence[TurnTiming], level: Level) -> BenchReport:
    rows = shares(timings)
    table = Table("part", "p50 ms", "p95 ms", "share", title=f"overhead of {len(timings)} '{level}' turns", box=None)
    for row in rows:
        table.add_row(row.part, f"{row.p50:.2f}", f"{row.p95:.2f}", f"{row.share:.0%}")
    compute_share = sum(timing.compute for timing in timings) / sum(timing.total for timing in timings)
    return BenchReport(
        bench="overhead",
        fields={"turns": len(timings), "level": level, "unit": "ms", "parts": [asdict(row) for row in rows]},
        tables=[table],
        notes=[f"model and embedding compute: {compute_share:.1%} of the turns' time"],
        chart=bar_chart(
            [row.part for row in rows],
            {"p50": [row.p50 for row in rows], "p95": [row.p95 for row in rows]},
            unit="ms a turn",
            decimals=1,
        ),
    )
