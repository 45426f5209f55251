"""``kiki bench exchange``: how long an adapter's exchange holds up the requests that decode with it."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import anyio
import numpy as np
import typer
from rich.table import Table
from safetensors.numpy import load, save

from bus.connection import Bus
from bus.storage import objects
from runtime.bench.contest import prompts, worker_contestant
from runtime.bench.harness import (
    BenchReport,
    JsonOption,
    PictureOption,
    fresh_folder,
    fresh_runtime,
    progress_bar,
    publish_report,
)
from runtime.bench.plots import box_chart
from runtime.bench.weights import write_random_adapters
from runtime.cli import command, run_async, settings_of
from runtime.models import prepare
from schemas.adapters import JudgeRequest
from schemas.calls import ADAPTERS_DISCARD, ADAPTERS_EXCHANGE, ADAPTERS_EXPORT, ADAPTERS_STAGE, GATES_JUDGE, STATUS
from schemas.consolidation import (
    DiscardRequest,
    ExchangeRequest,
    ExportRequest,
    StageRequest,
)

TIMEOUT = 60.0
CLIENTS = 8

TIMES = {"pause_ms": "without decoding", "answered_ms": "request to reply"}
"""The milliseconds of a :class:`Pause`, in words."""


@command
def exchange(
    times: Annotated[int, typer.Option(min=10, max=1000, help="Exchanges.")] = 100,
    tokens: Annotated[int, typer.Option(min=8, max=512, help="Tokens of each answer meanwhile.")] = 64,
    rank: Annotated[int, typer.Option(min=1, max=64, help="Rank of the adapter, on all linear modules.")] = 16,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """The pause of an adapter's exchange while 8 requests decode with it. Starts a worker of its own."""
    pauses = run_async(_measure_fresh, times, tokens, rank)
    publish_report(_report(pauses, rank), as_json=as_json, picture=picture)


@dataclass(frozen=True, kw_only=True)
class Pause:
    """One exchange.

    Attributes:
        pause_ms: milliseconds without decoding, by the worker's clock.
        answered_ms: milliseconds from request to reply, by the bench's clock.
        rows: rows that were being decoded just before it.
    """

    pause_ms: float
    answered_ms: float
    rows: int


async def measure_pauses(
    bus: Bus,
    name: str,
    ask_once: Callable[[], Awaitable[None]],
    *,
    times: int,
    clients: int,
    tick: Callable[[], None] = lambda: None,
) -> list[Pause]:
    """Exchange an adapter for a slightly different one while ``clients`` tasks call ``ask_once`` without end.

    Only exchanges that meet decoding rows count; it ends after ``times`` of them.
    """
    measurements: list[Pause] = []
    current = await bus.request(ADAPTERS_EXPORT, ExportRequest(name=name), timeout=TIMEOUT)
    data, base = await objects.get(bus, current.weights), current.sha256

    async def ask_forever() -> None:
        while True:
            await ask_once()

    async with anyio.create_task_group() as tasks:
        for _ in range(clients):
            tasks.start_soon(ask_forever)
        while len(measurements) < times:
            weights = await objects.put(bus, _nudged(data, seed=len(measurements)))
            pause = await _exchange(bus, name, weights, base)
            base = weights
            if pause.rows:
                measurements.append(pause)
                tick()
        tasks.cancel_scope.cancel()
    return measurements


async def _exchange(bus: Bus, name: str, weights: str, base: str) -> Pause:
    stage_reply = await bus.request(ADAPTERS_STAGE, StageRequest(name=name, weights=weights), timeout=TIMEOUT)
    judge = JudgeRequest(name=name, sha256=weights, staged=stage_reply.staged)
    await bus.request(GATES_JUDGE, judge, timeout=TIMEOUT)
    worker = await bus.request(STATUS.at("inference"), None, timeout=TIMEOUT)
    request = ExchangeRequest(name=name, staged=stage_reply.staged, base_sha256=base)
    started = time.perf_counter()
    reply = await bus.request(ADAPTERS_EXCHANGE, request, timeout=TIMEOUT)
    milliseconds = (time.perf_counter() - started) * 1000
    await bus.request(ADAPTERS_DISCARD, DiscardRequest(staged=stage_reply.staged), timeout=TIMEOUT)
    return Pause(pause_ms=reply.pause_ms, answered_ms=milliseconds, rows=int(worker.gauges["active_rows"]))


def _nudged(data: bytes, *, seed: int) -> bytes:
    """The weights with noise of 1e-4 on one tensor, so that their digest is another one."""
    tensors = load(data)
    path = sorted(tensors)[0]
    noise = np.random.default_rng(seed).standard_normal(tensors[path].shape).astype(tensors[path].dtype)
    changed: bytes = save({**tensors, path: tensors[path] + noise * tensors[path].dtype.type(1e-4)})
    return changed


async def _measure_fresh(times: int, tokens: int, rank: int) -> list[Pause]:
    with fresh_folder() as adapters:
        model = prepare(settings_of(log_level="warning").model)
        (name,) = write_random_adapters(model, adapters, count=1, rank=rank)
        async with fresh_runtime("inference", "gates", adapters=adapters) as bus:
            ask, number = worker_contestant(bus), iter(range(10**9))

            async def ask_next() -> None:
                await ask(prompts(1, first=next(number))[0], name, tokens)

            await ask_next()
            with progress_bar("exchanging", total=times) as tick:
                return await measure_pauses(bus, name, ask_next, times=times, clients=CLIENTS, tick=tick)


def _report(pauses: Sequence[Pause], rank: int) -> BenchReport:
    rows = [pause.rows for pause in pauses]
    samples = {words: [getattr(pause, part) for pause in pauses] for part, words in TIMES.items()}
    title = f"{len(pauses)} exchanges (rank {rank}) while {min(rows)} to {max(rows)} rows decode"
    table = Table("ms", "p50", "p99", "max", title=title, box=None)
    for words, milliseconds in samples.items():
        p50, p99 = np.percentile(milliseconds, [50, 99])
        table.add_row(words, f"{p50:.1f}", f"{p99:.1f}", f"{max(milliseconds):.1f}")
    return BenchReport(
        bench="exchange",
        fields={"unit": "ms", "rank": rank, "rows": [asdict(pause) for pause in pauses]},
        tables=[table],
        chart=box_chart(samples, unit="ms an exchange"),
    )
