"""``kiki bench rebuild``: how long the stores take to be made again from the record, on Ladybug and on a Neo4j."""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from agents.memory import imports
from bus.connection import Bus
from runtime.bench.harness import (
    BenchReport,
    JsonOption,
    PictureOption,
    Tick,
    fresh_runtime,
    progress_bar,
    publish_report,
)
from runtime.bench.plots import bar_chart
from runtime.cli import command, run_async
from schemas.calls import MEMORY_REBUILD
from schemas.memory import RebuildReply, RebuildRequest

DIMENSIONS = 768
SESSION = 20
"""Lines of a session."""

WORDS = 12
"""Words of a line."""

VOCABULARY = 5000
TOPICS = 100
PATIENCE = 900.0
"""Seconds that one rebuild may take."""

EMBEDDED = "ladybug"


@dataclass(frozen=True)
class RebuildTimes:
    """Seconds of each rebuild of ``episodes`` episodes, by where the graph is."""

    episodes: int
    seconds: Mapping[str, Sequence[float]]

    @property
    def medians(self) -> dict[str, float]:
        """The median of each graph."""
        return {name: statistics.median(values) for name, values in self.seconds.items()}


@command
def rebuild(
    episodes: Annotated[int, typer.Option(min=50, max=1_000_000, help="Lines of dialogue in the record.")] = 600,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Rebuilds of each, by turns.")] = 5,
    neo4j_uri: Annotated[
        str | None, typer.Option(envvar="NEO4J_URI", help="A Neo4j to compare with, whose database may be emptied.")
    ] = None,
    neo4j_user: Annotated[str, typer.Option(envvar="NEO4J_USER", help="The account there.")] = "neo4j",
    neo4j_password: Annotated[str, typer.Option(envvar="NEO4J_PASSWORD", help="Its password.")] = "",
    neo4j_database: Annotated[str, typer.Option(envvar="NEO4J_DATABASE", help="The database there.")] = "neo4j",
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Seconds of a rebuild on Ladybug, and on a Neo4j when one is named. Vectors are drawn, not embedded."""
    graphs: dict[str, dict[str, Any]] = {EMBEDDED: {"trace": EMBEDDED}}
    if neo4j_uri is not None:
        graphs["neo4j"] = {
            "trace": "neo4j",
            "neo4j_uri": neo4j_uri,
            "neo4j_user": neo4j_user,
            "neo4j_password": neo4j_password,
            "neo4j_database": neo4j_database,
        }
    publish_report(_report(run_async(_measure_graphs, graphs, episodes, rounds)), as_json=as_json, picture=picture)


async def _measure_graphs(graphs: Mapping[str, Mapping[str, Any]], episodes: int, rounds: int) -> RebuildTimes:
    with progress_bar("rebuilds", total=rounds * len(graphs)) as tick:
        return await measure(graphs, episodes=episodes, rounds=rounds, tick=tick)


async def measure(graphs: Mapping[str, Mapping[str, Any]], *, episodes: int, rounds: int, tick: Tick) -> RebuildTimes:
    """Rebuild the memory ``rounds`` times on each graph, by turns. ``graphs``: the memory's settings by graph.

    Raises:
        SetupError: a graph's server cannot be used.
    """
    seconds: dict[str, list[float]] = {name: [] for name in graphs}
    async with AsyncExitStack() as stack:
        buses = {
            name: await stack.enter_async_context(fresh_runtime("memory", agents={"memory": dict(settings)}))
            for name, settings in graphs.items()
        }
        for bus in buses.values():
            await _fill(bus, episodes)
            await _rebuild(bus)  # the first one waits for the projection, and warms the server
        for _ in range(rounds):
            for name, bus in buses.items():
                reply = await _rebuild(bus)
                assert reply.episodes == episodes
                seconds[name].append(reply.seconds)
                tick()
    return RebuildTimes(episodes=episodes, seconds=seconds)


async def _fill(bus: Bus, count: int) -> None:
    """Record a dialogue of two speakers: words as often as in texts (Zipf's law), vectors around topics."""
    random = np.random.default_rng(7)
    topics = random.normal(size=(TOPICS, DIMENSIONS))
    lines = [
        imports.HistoryLine(
            text=" ".join(f"w{word}" for word in random.zipf(1.3, size=WORDS) % VOCABULARY),
            session=f"s{number // SESSION}",
            speaker=("Ann", "Bob")[number % 2],
            timestamp=1e9 + 60 * number,
        )
        for number in range(count)
    ]
    for entry in imports.date_lines(lines):
        vector = topics[random.integers(TOPICS)] + random.normal(size=DIMENSIONS)
        unit = (vector / np.linalg.norm(vector)).tolist()
        await bus.publish(imports.build_event(entry, unit, tenant="bench"))


async def _rebuild(bus: Bus) -> RebuildReply:
    return await bus.request(MEMORY_REBUILD, RebuildRequest(), timeout=PATIENCE)


def _report(times: RebuildTimes) -> BenchReport:
    table = Table("graph", "median s", "episodes/s", title=f"rebuild of {times.episodes} episodes", box=None)
    medians = times.medians
    for name, seconds in medians.items():
        table.add_row(name, f"{seconds:.2f}", f"{times.episodes / seconds:.0f}")
    fields: dict[str, Any] = {"episodes": times.episodes, "seconds": times.seconds}
    notes = []
    if "neo4j" in medians:
        fields["ratio"] = medians[EMBEDDED] / medians["neo4j"]
        notes.append(f"Ladybug takes {fields['ratio']:.2f} times as long as Neo4j")
    return BenchReport(
        bench="rebuild",
        fields=fields,
        tables=[table],
        notes=notes,
        chart=bar_chart(list(medians), {"rebuild": list(medians.values())}, unit="s", decimals=1),
    )
