"""``kiki bench worker``: the worker against ``mlx_lm.server``.

``--what raw``: throughput without adapters; ``mixed``: four adapters in turn beside one; ``swap``: the time that a swap
of resident adapters takes; ``int8``: throughput with int8 weights beside the other two. The others compare the engines,
on float32 weights.
"""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
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
from schemas.calls import STATUS
from schemas.errors import SetupError
from schemas.status import StatusReply

What = Literal["raw", "mixed", "swap", "int8"]
CpuWeights = Literal["float32", "int8"]
Rows = list[dict[str, Any]]
Contestants = Mapping[str, contest.Contestant]
"""By their names in the figures."""

TITLES = {"ours": "micro-kiki", "ours_int8": "micro-kiki int8", "theirs": "mlx_lm.server", "llama_cpp": "llama.cpp"}
"""What the contestants are called in pictures."""

RANK = 16
"""Rank of the adapters, except where swaps of several ranks are measured."""


@command
def worker(
    what: Annotated[
        What, typer.Option(help="raw: no adapters; mixed: four in turn; swap: time of a swap; int8: int8 weights.")
    ] = "raw",
    tokens: Annotated[int, typer.Option(min=4, max=512, help="raw, mixed, int8: most tokens of each answer.")] = 32,
    requests: Annotated[int, typer.Option(min=1, max=64, help="raw, mixed, int8: requests of each client.")] = 2,
    concurrency: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Clients at once; repeat it. By default raw: 1, 8, 32; mixed: 8; int8: 1, 3, 8."),
    ] = None,
    times: Annotated[int, typer.Option(min=5, max=1000, help="swap: swaps of each rank.")] = 40,
    ranks: Annotated[list[int] | None, typer.Option(help="swap: ranks; repeat it. By default 4, 16, 64.")] = None,
    llama_cpp: Annotated[
        str | None, typer.Option(help="int8: URL of a llama.cpp server, already started, that is asked as well.")
    ] = None,
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
    elif what == "int8":
        rows = run_async(_measure_int8, concurrency or (1, 3, 8), requests, tokens, llama_cpp)
        fields = {"what": what, "max_tokens": tokens, "rows": rows}
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
    """The contestants, running: micro-kiki's worker (``ours`` in the figures), ``mlx_lm.server`` (``theirs``), more."""

    def __init__(self, bus: Bus, contestants: Contestants, *, names: list[str]) -> None:
        self._bus, self._contestants, self.names = bus, contestants, names
        self._prompt_count = 1000

    async def race_all(
        self, clients: int, count: int, tokens: int, *, adapters: list[str] | None = None, alone: bool = False
    ) -> dict[str, Any]:
        """``count`` requests to each, in rounds that alternate between them, so that other load meets all alike.

        With ``alone`` only the worker is asked.
        """
        names: list[str | None] = [*adapters] if adapters else [None]
        contestants = {"ours": self._contestants["ours"]} if alone else self._contestants
        rounds: dict[str, list[contest.Throughput]] = {contestant: [] for contestant in contestants}
        for ask in contestants.values():
            await contest.race(ask, self._prompts(len(names)), concurrency=1, max_tokens=2, adapters=names)
        for _ in range(max(1, count // clients)):
            for contestant, ask in contestants.items():
                questions = self._prompts(clients)
                throughput = await contest.race(ask, questions, concurrency=clients, max_tokens=tokens, adapters=names)
                rounds[contestant].append(throughput)
        rates = {contestant: asdict(contest.merge_rounds(throughputs)) for contestant, throughputs in rounds.items()}
        return {"concurrency": clients, **rates}

    async def time_swaps(self, rank: int, times: int) -> dict[str, Any]:
        """Alternate two adapters: milliseconds of each swap of the worker, and of a whole request of
        ``mlx_lm.server``."""
        names = [f"rank{rank}-{number}" for number in range(2)]
        worker, rival = self._contestants["ours"], self._contestants["theirs"]
        await contest.race(worker, self._prompts(2), concurrency=1, max_tokens=1, adapters=[*names])
        milliseconds, before = [], (await self._status()).gauges["adapter_swaps_total"]
        for number in range(times):
            await worker(self._prompts(1)[0], names[number % 2], 1)
            milliseconds.append((await self._status()).gauges["last_swap_ms"])
        status = await self._status()
        swaps = status.gauges["adapter_swaps_total"] - before
        replies = [await rival(self._prompts(1)[0], names[number % 2], 1) for number in range(4)]
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
        return await _read_status(self._bus)


async def _measure_raw(concurrency: Sequence[int], requests: int, tokens: int) -> Rows:
    async with _open_arena({}) as arena:
        rows = [await arena.race_all(clients, clients * requests, tokens) for clients in concurrency]
    return [row | _ratios(row, "ours", "theirs") for row in rows]


async def _measure_mixed(concurrency: Sequence[int], requests: int, tokens: int) -> Rows:
    rows: Rows = []
    async with _open_arena({"adapter": (4, RANK)}) as arena:
        for clients in concurrency:
            count = clients * requests
            single_row = await arena.race_all(clients, count, tokens, adapters=arena.names[:1], alone=True)
            mixed_row = await arena.race_all(clients, count, tokens, adapters=arena.names)
            mixed_row |= _ratios(mixed_row, "ours", "theirs")
            single_row["what"], mixed_row["what"] = "one adapter", "four adapters in turn"
            mixed_row["of_single"] = mixed_row["ours"]["tokens_per_second"] / single_row["ours"]["tokens_per_second"]
            rows += [single_row, mixed_row]
    return rows


async def _measure_swaps(ranks: Sequence[int], times: int) -> Rows:
    async with _open_arena({f"rank{rank}-": (2, rank) for rank in ranks}) as arena:
        return [await arena.time_swaps(rank, times) for rank in ranks]


async def _measure_int8(concurrency: Sequence[int], requests: int, tokens: int, llama_cpp: str | None) -> Rows:
    rows: Rows = []
    async with contest.reach_llama(llama_cpp) as llama, _open_arena({}, int8=True, llama=llama) as arena:
        for clients in concurrency:
            row = await arena.race_all(clients, clients * requests, tokens)
            others = {"float32": "ours", "theirs": "theirs", "llama_cpp": "llama_cpp"}
            for name, other in others.items():
                if other in row:
                    row |= _ratios(row, "ours_int8", other, prefix=f"int8_to_{name}_")
            rows.append(row)
    return rows


def _ratios(row: dict[str, Any], first: str, second: str, *, prefix: str = "") -> dict[str, float]:
    """One contestant's tokens a second and time to the first token over another's."""
    return {
        f"{prefix}tokens_ratio": row[first]["tokens_per_second"] / row[second]["tokens_per_second"],
        f"{prefix}first_token_ratio": row[first]["first_token"] / row[second]["first_token"],
    }


@contextlib.asynccontextmanager
async def _open_arena(
    adapters: dict[str, tuple[int, int]], *, int8: bool = False, llama: contest.Contestant | None = None
) -> AsyncIterator[Arena]:
    """The contestants on the same weights, of which ``int8`` rounds a second worker's.

    ``adapters`` maps the prefix of random adapters to their count and rank.
    """
    with fresh_folder() as directory:
        model = float32_copy(prepare(settings_of(log_level="warning").model), directory / "model")
        folder, names = directory / "adapters", []
        folder.mkdir()
        for prefix, (count, rank) in adapters.items():
            names += write_random_adapters(model, folder, count=count, rank=rank, prefix=prefix)
        log = directory / "rival.log"
        async with contextlib.AsyncExitStack() as stack:
            bus = await stack.enter_async_context(_run_worker(model, folder, "float32"))
            contestants = {"ours": contest.worker_contestant(bus)}
            if int8:
                int8_bus = await stack.enter_async_context(_run_worker(model, folder, "int8"))
                contestants["ours_int8"] = contest.worker_contestant(int8_bus)
            client = await stack.enter_async_context(contest.run_rival(model, log))
            contestants["theirs"] = contest.rival_contestant(client, model, folder, log)
            if llama is not None:
                contestants["llama_cpp"] = llama
            for ask in contestants.values():
                await contest.race(ask, contest.prompts(1), concurrency=1, max_tokens=2)
            yield Arena(bus, contestants, names=names)


@contextlib.asynccontextmanager
async def _run_worker(model: Path, adapters: Path, weights: CpuWeights) -> AsyncIterator[Bus]:
    """A worker on a broker of its own, whose rounded weights go with the model's copy.

    Raises:
        SetupError: int8 weights are asked for, and the worker takes the weights as stored (on a GPU).
    """
    inference = {"cpu_weights": weights, "int8_folder": str(model / "int8")}
    async with fresh_runtime("inference", model=str(model), adapters=adapters, agents={"inference": inference}) as bus:
        status = await _read_status(bus)
        if weights == "int8" and status.info.get("weights") != weights:
            raise SetupError("int8 weights are a CPU's: this machine takes the weights as stored.", param="what")
        yield bus


async def _read_status(bus: Bus) -> StatusReply:
    return await bus.request(STATUS.at("inference"), None, timeout=30)


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
            contestant = name.replace("_", " ")
            cells[f"{contestant} tokens/s"] = f"{value['tokens_per_second']:.1f}"
            cells[f"{contestant} first ms"] = f"{value['first_token'] * 1000:.0f}"
        elif not isinstance(value, list):
            cells[name.replace("_", " ")] = f"{value:.2f}" if isinstance(value, float) else str(value)
    return cells


def _throughput_chart(what: What, rows: Rows) -> Chart:
    def rates(contestant: str) -> list[float | None]:
        return [row[contestant]["tokens_per_second"] if contestant in row else None for row in rows]

    labels = ["\n".join(filter(None, (row.get("what"), f"{row['concurrency']} at once"))) for row in rows]
    present = (contestant for contestant in TITLES if any(contestant in row for row in rows))
    series = {TITLES[contestant]: rates(contestant) for contestant in present}
    return bar_chart(labels, series, unit="tokens/s", caption=f"--what {what}")


def _swap_chart(rows: Rows) -> Chart:
    return box_chart(
        {f"rank {row['rank']}": row["samples_ms"] for row in rows}, unit="ms a swap", caption="--what swap"
    )
