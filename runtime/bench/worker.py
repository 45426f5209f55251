"""``kiki bench raw | mixed | swap``: the worker against ``mlx_lm.server``, as JSON, a table and a picture."""

import contextlib
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from bus.connection import Bus, connect
from runtime.bench import contest
from runtime.bench.harness import machine
from runtime.cli import command, out, run_async, settings_of
from runtime.cli.pictures import canvas
from runtime.composition import bus_settings
from runtime.models import prepare
from runtime.supervisor import Supervisor
from schemas.status import StatusReply

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON only.")]
PictureOption = Annotated[Path | None, typer.Option(help="Write a picture here (needs the extra 'bench').")]
TokensOption = Annotated[int, typer.Option(min=4, max=512, help="Most tokens of each answer.")]
RANK = 16


def hang(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(raw)
    app.command()(mixed)
    app.command()(swap)


@command
def raw(
    tokens: TokensOption = 32,
    requests: Annotated[int, typer.Option(min=1, max=64, help="Requests of each client.")] = 2,
    concurrency: Annotated[list[int] | None, typer.Option(help="Clients at once; repeat it.")] = None,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tokens a second and time to the first token, without adapters."""

    async def run(arena: "Arena") -> list[dict[str, Any]]:
        return [await arena.race_both(clients, clients * requests, tokens) for clients in concurrency or (1, 8, 32)]

    rows = _run_in_arena(run, adapters=0)
    _print_report({"bench": "raw", "max_tokens": tokens, "rows": rows}, as_json, picture)


@command
def mixed(
    tokens: TokensOption = 32,
    requests: Annotated[int, typer.Option(min=1, max=64, help="Requests of each client.")] = 2,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Clients at once.")] = 8,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Four adapters in turn, and one adapter, by eight clients at once."""

    async def run(arena: "Arena") -> list[dict[str, Any]]:
        single_row = await arena.race_both(
            concurrency, concurrency * requests, tokens, adapters=arena.names[:1], rival=False
        )
        mixed_row = await arena.race_both(concurrency, concurrency * requests, tokens, adapters=arena.names)
        single_row["what"], mixed_row["what"] = "one adapter", "four adapters in turn"
        mixed_row["of_single"] = mixed_row["ours"]["tokens_per_second"] / single_row["ours"]["tokens_per_second"]
        return [single_row, mixed_row]

    _print_report({"bench": "mixed", "rank": RANK, "max_tokens": tokens, "rows": _run_in_arena(run)}, as_json, picture)


@command
def swap(
    times: Annotated[int, typer.Option(min=5, max=1000, help="Swaps of each size.")] = 40,
    ranks: Annotated[list[int] | None, typer.Option(help="Ranks of the adapters; repeat it.")] = None,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time to swap resident adapters by size, and what a swap costs ``mlx_lm.server``, which loads the base again."""

    async def run(arena: "Arena") -> list[dict[str, Any]]:
        return [await arena.time_swaps(rank, times) for rank in ranks or (4, 16, 64)]

    _print_report({"bench": "swap", "rows": _run_in_arena(run, ranks=ranks or [4, 16, 64])}, as_json, picture)


class Arena:
    """Both contestants, running: our worker and ``mlx_lm.server``."""

    def __init__(self, bus: Bus, rival: contest.Contestant, *, names: list[str]) -> None:
        self._bus, self.names = bus, names
        self._ours, self._theirs = contest.worker_contestant(bus), rival
        self._prompt_count = 1000

    async def race_both(
        self, clients: int, count: int, tokens: int, *, adapters: list[str] | None = None, rival: bool = True
    ) -> dict[str, Any]:
        """``count`` requests to each, in rounds by turns, so that a busy machine troubles both alike."""
        names: list[str | None] = [*adapters] if adapters else [None]
        row: dict[str, Any] = {"concurrency": clients}
        contestants = (("ours", self._ours), ("theirs", self._theirs))[: 2 if rival else 1]
        rounds: dict[str, list[contest.Throughput]] = {contestant: [] for contestant, _ in contestants}
        for _, ask in contestants:
            await contest.race(ask, self._prompts(len(names)), concurrency=1, max_tokens=2, adapters=names)
        for _ in range(max(1, count // clients)):
            for contestant, ask in contestants:
                questions = self._prompts(clients)
                throughput = await contest.race(ask, questions, concurrency=clients, max_tokens=tokens, adapters=names)
                rounds[contestant].append(throughput)
        row |= {contestant: asdict(contest.merge_rounds(rates)) for contestant, rates in rounds.items()}
        if rival:
            row["tokens_ratio"] = row["ours"]["tokens_per_second"] / row["theirs"]["tokens_per_second"]
            row["first_token_ratio"] = row["ours"]["first_token"] / row["theirs"]["first_token"]
        return row

    async def time_swaps(self, rank: int, times: int) -> dict[str, Any]:
        """Two adapters by turns: our worker's milliseconds of each swap, and ``mlx_lm.server``'s of a whole request."""
        names = [f"rank{rank}-{number}" for number in range(2)]
        await contest.race(self._ours, self._prompts(2), concurrency=1, max_tokens=1, adapters=[*names])
        milliseconds, before = [], (await self._status()).gauges["adapter_swaps_total"]
        for number in range(times):
            await self._ours(self._prompts(1)[0], names[number % 2], 1)
            milliseconds.append((await self._status()).gauges["last_swap_ms"])
        status = await self._status()
        swaps = status.gauges["adapter_swaps_total"] - before
        replies = [await self._theirs(self._prompts(1)[0], names[number % 2], 1) for number in range(4)]
        return {
            "rank": rank,
            "megabytes": status.gauges["adapter_resident_bytes"] / 1e6,
            "p50_ms": float(np.percentile(milliseconds, 50)),
            "p99_ms": float(np.percentile(milliseconds, 99)),
            "base_reloads_saved_per_request": swaps / times,
            "their_request_ms": float(np.median([reply.total for reply in replies])) * 1000,
            "samples_ms": milliseconds,
        }

    def _prompts(self, count: int) -> list[str]:
        self._prompt_count += count
        return contest.prompts(count, first=self._prompt_count - count)

    async def _status(self) -> StatusReply:
        return await self._bus.request("status.inference", StatusReply(agent="", ready=False), StatusReply, timeout=30)


def _run_in_arena(
    run: Callable[[Arena], Awaitable[list[dict[str, Any]]]], *, adapters: int = 4, ranks: list[int] | None = None
) -> list[dict[str, Any]]:
    async def run_and_close() -> list[dict[str, Any]]:
        with tempfile.TemporaryDirectory(prefix="kiki-bench-") as directory:
            async with _arena(Path(directory), adapters, ranks) as arena:
                return await run(arena)

    return run_async(run_and_close)


@contextlib.asynccontextmanager
async def _arena(directory: Path, adapters: int, ranks: list[int] | None) -> AsyncIterator[Arena]:
    settings = settings_of(log_level="warning")
    model = contest.float32_copy(prepare(settings.model), directory / "model")
    folder = directory / "adapters"
    folder.mkdir()
    names = contest.write_random_adapters(model, folder, count=adapters, rank=RANK) if ranks is None else []
    for rank in ranks or ():
        contest.write_random_adapters(model, folder, count=2, rank=rank, prefix=f"rank{rank}-")
    settings = settings_of(
        data_dir=directory / "data", nats_port=0, log_level="warning", model=str(model), adapters=folder
    )
    supervisor = Supervisor(settings, names=("inference",))
    async with supervisor.running(), connect(bus_settings(supervisor.settings), name="kiki-bench") as bus:
        await bus.reconcile()
        log = directory / "rival.log"
        async with contest.rival(model, log) as client:
            await contest.race(contest.worker_contestant(bus), contest.prompts(1), concurrency=1, max_tokens=2)
            yield Arena(bus, contest.rival_contestant(client, model, folder, log), names=names)


def _print_report(report: dict[str, Any], as_json: bool, picture: Path | None) -> None:
    report = {**report, "machine": machine()}
    if picture is not None:
        _draw(report, picture)
    if as_json:
        out.out(json.dumps(report))
        return
    table = Table(title=f"kiki bench {report['bench']}", box=None)
    lines = [_flattened(row) for row in report["rows"]]
    columns = list(dict.fromkeys(name for line in lines for name in line))
    for name in columns:
        table.add_column(name)
    for line in lines:
        table.add_row(*(line.get(name, "") for name in columns))
    out.print(table)
    out.print(f"{report['machine']}", style="dim", highlight=False)


def _flattened(row: dict[str, Any]) -> dict[str, str]:
    cells: dict[str, str] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            cells[f"{name} tokens/s"] = f"{value['tokens_per_second']:.1f}"
            cells[f"{name} first ms"] = f"{value['first_token'] * 1000:.0f}"
        elif not isinstance(value, list):
            cells[name.replace("_", " ")] = f"{value:.2f}" if isinstance(value, float) else str(value)
    return cells


def _draw(report: dict[str, Any], picture: Path) -> None:
    rows = report["rows"]
    with canvas(picture, width=7, height=4) as (_, axes):
        if report["bench"] == "swap":
            axes.boxplot([row["samples_ms"] for row in rows], tick_labels=[f"rank {row['rank']}" for row in rows])
            axes.set_ylabel("ms a swap")
            axes.set_yscale("log")
        else:
            labels = [row.get("what") or f"{row['concurrency']} at once" for row in rows]
            for offset, contestant, name in ((-0.2, "ours", "micro-kiki"), (0.2, "theirs", "mlx_lm.server")):
                points = [(index, row[contestant]) for index, row in enumerate(rows) if contestant in row]
                heights = [rate["tokens_per_second"] for _, rate in points]
                bars = axes.bar([index + offset for index, _ in points], heights, 0.4, label=name)
                axes.bar_label(bars, fmt="%.0f")
            axes.set_xticks(range(len(rows)), labels)
            axes.set_ylabel("tokens/s")
            axes.legend()
        axes.set_title(
            f"kiki bench {report['bench']}: {report['machine']['system']}, {report['machine']['cores']} cores"
        )
