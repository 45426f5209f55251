"""``kiki bench writes``: whether answers take longer because they are recorded."""

import time
from dataclasses import asdict
from typing import Annotated, Literal

import anyio
import typer
from msgspec import structs
from rich.table import Table

from bus.connection import Bus
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
from runtime.bench.intervals import PairedRatio, compare
from runtime.bench.plots import IntervalBar, interval_chart
from runtime.cli import command, run_async
from schemas.envelope import new_turn
from schemas.errors import Unavailable
from schemas.events import QueryReceived, QueryRouted

RecordedLevel = Literal["fast", "full"]

TENANT = "bench"
SETTLE = 0.3
"""Seconds between two arms, in which the writes of the first one end."""


@command
def writes(
    pairs: Annotated[int, typer.Option(min=4, max=1000, help="Pairs to measure.")] = 40,
    turns: Annotated[int, typer.Option(min=1, max=32, help="Turns of each arm, one after the other.")] = 3,
    level: Annotated[RecordedLevel, typer.Option(help="What every turn goes through.")] = "fast",
    max_tokens: Annotated[int, typer.Option(min=1, max=256, help="Tokens of each candidate.")] = 8,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Whether answers take longer because they are recorded: the same turns with and without, in pairs."""
    comparison = run_async(_measure_pairs, pairs, turns, level, max_tokens)
    publish_report(_report(comparison, turns, level), as_json=as_json, picture=picture)


async def _measure_pairs(pairs: int, turns: int, level: RecordedLevel, max_tokens: int) -> PairedRatio:
    async with fresh_runtime() as bus:
        routed_events = [await _route_question(bus, question, level, max_tokens) for question in QUESTIONS]

        async def arm(number: int, record: bool) -> float:
            await anyio.sleep(SETTLE)
            began = time.perf_counter()
            for turn in range(turns):
                await _answer_again(bus, routed_events[(number + turn) % len(routed_events)], record=record)
            return time.perf_counter() - began

        await arm(0, True)
        with progress_bar("pairs", total=pairs) as tick:
            return await compare(
                lambda number: arm(number, True), lambda number: arm(number, False), pairs=pairs, tick=tick
            )


async def _route_question(bus: Bus, question: str, level: RecordedLevel, max_tokens: int) -> QueryRouted:
    """Run one whole turn, which is recorded, and return the event that the router published in it."""
    query = make_query(question, level=level, max_tokens=max_tokens, seed=1)
    envelope = new_turn(tenant=TENANT, timeout=120.0)
    await bus.publish_and_wait(QueryReceived(envelope=envelope, query=query))
    event = await bus.last(QueryRouted, envelope.turn_id)
    if event is None:
        raise Unavailable("the broker lost the routed turn: measure again.")
    return event


async def _answer_again(bus: Bus, event: QueryRouted, *, record: bool) -> None:
    envelope = new_turn(tenant=TENANT, timeout=120.0).next("router")
    plan = structs.replace(event.route.plan, record=record)
    await bus.publish_and_wait(
        structs.replace(event, envelope=envelope, route=structs.replace(event.route, plan=plan), timings=())
    )


def _report(comparison: PairedRatio, turns: int, level: RecordedLevel) -> BenchReport:
    table = Table("", "median s", title=f"{turns} '{level}' turns from routed to answered", box=None)
    table.add_row("recorded", f"{comparison.first:.3f}")
    table.add_row("not recorded", f"{comparison.second:.3f}")
    note = (
        f"ratio {comparison.ratio:.3f}, 95 % interval {comparison.low:.3f} to {comparison.high:.3f}, "
        f"{comparison.pairs} pairs"
    )
    bar = IntervalBar(
        label="recorded /\nnot recorded", middle=comparison.ratio, low=comparison.low, high=comparison.high
    )
    return BenchReport(
        bench="writes",
        fields={"turns": turns, "level": level, **asdict(comparison)},
        tables=[table],
        notes=[note],
        chart=interval_chart([bar], unit=f"ratio of times, {comparison.pairs} pairs, 95 % interval", baseline=1.0),
    )
