"""``kiki bench recall | writes``: what a memory costs as it grows, and whether writing it costs the client anything."""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import anyio
import typer
from msgspec import structs
from rich.progress import Progress
from rich.table import Table

from bus.connection import Bus, connect
from runtime import pairing, recalling
from runtime.agents import turn_agents
from runtime.cli import command, err, out, run_async, settings_of
from runtime.cli.bench import QUESTIONS, machine
from runtime.cli.up import wait_ready
from runtime.composition import bus_settings
from runtime.settings import Settings
from runtime.supervisor import Supervisor
from schemas.chat import Message, Sampling
from schemas.envelope import new_turn
from schemas.errors import InvalidInput, SetupError, Unavailable
from schemas.events import QueryReceived, QueryRouted
from schemas.findings import Level, Query

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
VECTORS = f"unit vectors around {recalling.TOPICS} topics, not embeddings; {recalling.TENANTS} tenants"
TENANT = "bench"
SETTLE = 0.3
"""Seconds between two arms, in which the last write ends."""


def hang(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(recall)
    app.command()(writes)


@command
def recall(
    episodes: Annotated[str, typer.Option(help="Numbers of episodes, with commas.")] = "1000,10000,50000",
    picture: Annotated[Path | None, typer.Option(help="Write a picture here (needs the extra 'bench').")] = None,
    as_json: JsonOption = False,
) -> None:
    """Milliseconds of a recall, embedding excluded, and what memory and disk grow by."""
    sizes = _parse_sizes(episodes)

    async def measure() -> list[recalling.MemoryLevel]:
        with Progress(console=err, transient=True) as progress:
            task = progress.add_task("episodes", total=sizes[-1])
            return await recalling.measure(sizes, tick=lambda more: progress.advance(task, more))

    levels = run_async(measure)
    slope = recalling.per_million(levels)
    if picture is not None:
        _draw(levels, picture)
    if as_json:
        report = {"bench": "recall", "vectors": VECTORS, "machine": machine(), "unit": "ms"}
        out.out(json.dumps({**report, "levels": [asdict(level) for level in levels], "bytes_per_million": slope}))
        return
    for table in _tables(levels):
        out.print(table)
    if slope:
        growth = ", ".join(f"{value / 1e9:.1f} GB {name}" for name, value in slope.items())
        out.print(f"a million episodes by the slope: {growth}", highlight=False)
    out.print(VECTORS, style="dim", highlight=False)
    out.print(f"{machine()}", style="dim", highlight=False)


@command
def writes(
    pairs: Annotated[int, typer.Option(min=4, max=1000, help="Pairs to measure.")] = 40,
    turns: Annotated[int, typer.Option(min=1, max=32, help="Turns of each arm, one after the other.")] = 3,
    level: Annotated[str, typer.Option(help="fast or full.")] = "fast",
    max_tokens: Annotated[int, typer.Option(min=1, max=256, help="Tokens of each candidate.")] = 8,
    as_json: JsonOption = False,
) -> None:
    """Whether answers take longer because they are recorded: the same turns with and without, in pairs."""
    with tempfile.TemporaryDirectory(prefix="kiki-bench-") as directory:
        settings = settings_of(data_dir=Path(directory), nats_port=0, log_level="warning")
        comparison = run_async(_measure_pairs, settings, pairs, turns, level, max_tokens)
    if as_json:
        out.out(
            json.dumps({"bench": "writes", "turns": turns, "level": level, "machine": machine(), **asdict(comparison)})
        )
        return
    title = f"{turns} '{level}' turns from routed to answered"
    table = Table("", "median s", title=title, box=None)
    table.add_row("recorded", f"{comparison.first:.3f}")
    table.add_row("not recorded", f"{comparison.second:.3f}")
    out.print(table)
    out.print(
        f"ratio {comparison.ratio:.3f}, 95 % interval {comparison.low:.3f} to {comparison.high:.3f}, "
        f"{comparison.pairs} pairs",
        highlight=False,
    )
    out.print(f"{machine()}", style="dim", highlight=False)


def _parse_sizes(text: str) -> list[int]:
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise InvalidInput(f"'{text}' is no list of numbers like 1000,10000.", param="episodes") from error
    if sizes[0] < 100:
        raise InvalidInput("a size is at least 100 episodes.", param="episodes")
    return sizes


def _tables(levels: Sequence[recalling.MemoryLevel]) -> tuple[Table, Table]:
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


def _draw(levels: Sequence[recalling.MemoryLevel], picture: Path) -> None:
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise SetupError("a picture needs matplotlib: install micro-kiki[bench].", param="picture") from error
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (times, sizes) = pyplot.subplots(1, 2, figsize=(9, 4.6), layout="constrained")
    counts = [level.episodes for level in levels]
    for name, label in (("plain", "not optimised"), ("busy", "while optimising"), ("optimised", "optimised")):
        (line,) = times.plot(counts, [getattr(level, name).p50 for level in levels], marker="o", label=f"p50 {label}")
        p99 = [getattr(level, name).p99 for level in levels]
        times.plot(counts, p99, marker="o", linestyle=":", color=line.get_color(), label=f"p99 {label}")
    times.axhline(15.0, color="grey", linewidth=0.8)
    times.axhline(40.0, color="grey", linewidth=0.8, linestyle=":")
    times.set(xscale="log", yscale="log", xlabel="episodes", ylabel="ms, embedding excluded")
    times.set_title("recall (grey: goals at 50,000)")
    times.legend(fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    sizes.plot(counts, [level.memory / 1e6 for level in levels], marker="o", label="memory of the process")
    sizes.plot(counts, [level.atlas / 1e6 for level in levels], marker="o", label="Atlas on disk")
    sizes.set(xlabel="episodes", ylabel="MB", title="size")
    sizes.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    for axes in (times, sizes):
        axes.grid(alpha=0.3)
    figure.suptitle(f"kiki bench recall: {VECTORS}", fontsize=8)
    figure.savefig(picture, dpi=150)
    pyplot.close(figure)


async def _measure_pairs(
    settings: Settings, pairs: int, turns: int, level: Level, max_tokens: int
) -> pairing.PairedRatio:
    supervisor = Supervisor(settings, names=turn_agents())
    async with supervisor.running(), connect(bus_settings(supervisor.settings), name="kiki-bench") as bus:
        await wait_ready(bus, supervisor)
        routed_events = [await _route_question(bus, question, level, max_tokens) for question in QUESTIONS]

        async def arm(number: int, record: bool) -> float:
            await anyio.sleep(SETTLE)
            began = time.perf_counter()
            for turn in range(turns):
                await _answer_again(bus, routed_events[(number + turn) % len(routed_events)], record=record)
            return time.perf_counter() - began

        await arm(0, True)
        with Progress(console=err, transient=True) as progress:
            task = progress.add_task("pairs", total=pairs)
            return await pairing.compare(
                lambda number: arm(number, True),
                lambda number: arm(number, False),
                pairs=pairs,
                tick=lambda: progress.advance(task),
            )


async def _route_question(bus: Bus, question: str, level: Level, max_tokens: int) -> QueryRouted:
    """Run one whole turn, which is recorded, and return the router's event of it."""
    query = Query(
        model="micro-kiki",
        messages=(Message(role="user", content=question),),
        sampling=Sampling(max_tokens=max_tokens, seed=1),
        level=level,
    )
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
