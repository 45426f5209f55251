"""``kiki bench worker``: the worker against ``mlx_lm.server``.

``--what raw``: throughput without adapters; ``mixed``: four adapters in turn beside one; ``swap``: the time that a swap
of resident adapters takes.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

import numpy as np
import typer
from rich.table import Table

from bus.connection import Bus
from runtime.bench import contest
from runtime.bench.harness import BenchReport, JsonOption, PictureOption, fresh_folder, fresh_runtime, publish_report
from runtime.bench.plots import Chart, bar_chart, box_chart
from runtime.bench.weights import float32_copy, write_random_adapters
from runtime.cli import command, run_async, settings_of
from runtime.models import prepare
from schemas.status import StatusReply

What = Literal["raw", "mixed", "swap"]
Rows = list[dict[str, Any]]

RANK = 16
"""Rank of the adapters, except where swaps of several ranks are measured."""


@command
def worker(
    what: Annotated[What, typer.Option(help="raw: no adapters; mixed: four in turn; swap: time of a swap.")] = "raw",
    tokens: Annotated[int, typer.Option(min=4, max=512, help="raw, mixed: most tokens of each answer.")] = 32,
    requests: Annotated[int, typer.Option(min=1, max=64, help="raw, mixed: requests of each client.")] = 2,
    concurrency: Annotated[
        list[int] | None, typer.Option(min=1, help="raw, mixed: clients at once; repeat it. By default 1, 8, 32 and 8.")
    ] = None,
    times: Annotated[int, typer.Option(min=5, max=1000, help="swap: swaps of each rank.")] = 40,
    ranks: Annotated[list[int] | None, typer.Option(help="swap: ranks; repeat it. By default 4, 16, 64.")] = None,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tokens a second, time to the first token and time of a swap, beside ``mlx_lm.server``. Starts both."""
    if what == "raw":
        rows = run_async(_measure_raw, concurrency or (1, 8, 32), requests, tokens)
        fields = {"what": what, "max_tokens": tokens, "rows": rows}
    elif what == "mixed":
        rows = run_async(_measure_mixed, concurrency or (8,), requests, tokens)
        fields = {"what": what, "rank": RANK, "max_tokens": tokens, "rows": rows}
    else:
        rows = run_async(_measure_swaps, ranks or (4, 16, 64), times)
        fields = {"what": what, "rows": rows}
    report = BenchReport(
        bench="worker",
        fields=fields,
        tables=[_table(what, rows)],
        chart=_swap_chart(rows) if what == "swap" else _throughput_chart(what, rows),
    )
    publish_report(report, as_json=as_json, picture=picture)


class Arena:
    """Both contestants, running: micro-kiki's worker (``ours`` in the figures) and ``mlx_lm.server`` (``theirs``)."""

    def __init__(self, bus: Bus, rival: contest.Contestant, *, names: list[str]) -> None:
        self._bus, self.names = bus, names
        self._worker, self._rival = contest.worker_contestant(bus), rival
        self._prompt_count = 1000

    async def race_both(
        self, clients: int, count: int, tokens: int, *, adapters: list[str] | None = None, rival: bool = True
    ) -> dict[str, Any]:
        """``count`` requests to each, in rounds that alternate between them, so that other load meets both alike."""
        names: list[str | None] = [*adapters] if adapters else [None]
        row: dict[str, Any] = {"concurrency": clients}
        contestants = (("ours", self._worker), ("theirs", self._rival))[: 2 if rival else 1]
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
        """Alternate two adapters: milliseconds of each swap of the worker, and of a whole request of
        ``mlx_lm.server``."""
        names = [f"rank{rank}-{number}" for number in range(2)]
        await contest.race(self._worker, self._prompts(2), concurrency=1, max_tokens=1, adapters=[*names])
        milliseconds, before = [], (await self._status()).gauges["adapter_swaps_total"]
        for number in range(times):
            await self._worker(self._prompts(1)[0], names[number % 2], 1)
            milliseconds.append((await self._status()).gauges["last_swap_ms"])
        status = await self._status()
        swaps = status.gauges["adapter_swaps_total"] - before
        replies = [await self._rival(self._prompts(1)[0], names[number % 2], 1) for number in range(4)]
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


async def _measure_raw(concurrency: Sequence[int], requests: int, tokens: int) -> Rows:
    async with _open_arena({}) as arena:
        return [await arena.race_both(clients, clients * requests, tokens) for clients in concurrency]


async def _measure_mixed(concurrency: Sequence[int], requests: int, tokens: int) -> Rows:
    rows: Rows = []
    async with _open_arena({"adapter": (4, RANK)}) as arena:
        for clients in concurrency:
            count = clients * requests
            single_row = await arena.race_both(clients, count, tokens, adapters=arena.names[:1], rival=False)
            mixed_row = await arena.race_both(clients, count, tokens, adapters=arena.names)
            single_row["what"], mixed_row["what"] = "one adapter", "four adapters in turn"
            mixed_row["of_single"] = mixed_row["ours"]["tokens_per_second"] / single_row["ours"]["tokens_per_second"]
            rows += [single_row, mixed_row]
    return rows


async def _measure_swaps(ranks: Sequence[int], times: int) -> Rows:
    async with _open_arena({f"rank{rank}-": (2, rank) for rank in ranks}) as arena:
        return [await arena.time_swaps(rank, times) for rank in ranks]


@contextlib.asynccontextmanager
async def _open_arena(adapters: dict[str, tuple[int, int]]) -> AsyncIterator[Arena]:
    """Both contestants on the same weights; ``adapters`` maps the prefix of random adapters to their count and rank."""
    with fresh_folder() as directory:
        model = float32_copy(prepare(settings_of(log_level="warning").model), directory / "model")
        folder, names = directory / "adapters", []
        folder.mkdir()
        for prefix, (count, rank) in adapters.items():
            names += write_random_adapters(model, folder, count=count, rank=rank, prefix=prefix)
        log = directory / "rival.log"
        async with (
            fresh_runtime("inference", model=str(model), adapters=folder) as bus,
            contest.run_rival(model, log) as client,
        ):
            await contest.race(contest.worker_contestant(bus), contest.prompts(1), concurrency=1, max_tokens=2)
            yield Arena(bus, contest.rival_contestant(client, model, folder, log), names=names)


def _table(what: What, rows: Rows) -> Table:
    lines = [_cells(row) for row in rows]
    columns = list(dict.fromkeys(name for line in lines for name in line))
    table = Table(*columns, title=f"kiki bench worker --what {what}", box=None)
    for line in lines:
        table.add_row(*(line.get(name, "") for name in columns))
    return table


def _cells(row: dict[str, Any]) -> dict[str, str]:
    cells: dict[str, str] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            cells[f"{name} tokens/s"] = f"{value['tokens_per_second']:.1f}"
            cells[f"{name} first ms"] = f"{value['first_token'] * 1000:.0f}"
        elif not isinstance(value, list):
            cells[name.replace("_", " ")] = f"{value:.2f}" if isinstance(value, float) else str(value)
    return cells


def _throughput_chart(what: What, rows: Rows) -> Chart:
    def rates(contestant: str) -> list[float | None]:
        return [row[contestant]["tokens_per_second"] if contestant in row else None for row in rows]

    labels = ["\n".join(filter(None, (row.get("what"), f"{row['concurrency']} at once"))) for row in rows]
    series = {"micro-kiki": rates("ours"), "mlx_lm.server": rates("theirs")}
    return bar_chart(labels, series, unit="tokens/s", caption=f"--what {what}")


def _swap_chart(rows: Rows) -> Chart:
    return box_chart(
        {f"rank {row['rank']}": row["samples_ms"] for row in rows}, unit="ms a swap", caption="--what swap"
    )
