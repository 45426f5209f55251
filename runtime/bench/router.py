"""``kiki bench router``: what a routed prompt costs beside a bare forward pass of the same embedder.

Prompts are the router's own corpus in a seeded order. Each goes once to every contestant, so that no cache helps and
all have the same work; the contestant that begins changes from prompt to prompt.

Then the shipped dialogues are routed: how often each kind of turn has its right domain, each dialogue read by a head
that the others trained.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio.to_thread
import msgspec
import numpy as np
import typer
from rich.table import Table

from agents.router.training.corpus import load_corpus
from runtime.bench.harness import BenchReport, JsonOption, PictureOption, progress_bar, publish_report
from runtime.bench.plots import bar_chart
from runtime.cli import command, run_async, settings_of
from runtime.settings import Settings
from schemas.router import RouteRequest

if TYPE_CHECKING:
    from agents.router.agent import RouterAgent  # it imports torch, which no other bench should wait for
    from agents.router.training.dialogues import TurnFigures

Call = Callable[[str], Awaitable[None]]
ROUTER, BARE = "router", "bare mpnet"
SEED = 7
WARM_UP = 3
LONGEST = 400
"""Most characters of a prompt: a few huge prompts would decide all figures."""


@command
def router(
    singles: Annotated[int, typer.Option(min=10, max=2000, help="Prompts one after another.")] = 150,
    rounds: Annotated[int, typer.Option(min=2, max=200, help="Rounds of prompts at once.")] = 12,
    width: Annotated[int, typer.Option(min=2, max=64, help="Prompts at once.")] = 16,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Milliseconds to route a prompt, alone and 16 at once, beside a bare forward pass of the embedder."""
    settings = settings_of(log_level="warning")
    latencies = run_async(_measure_router, settings, singles, rounds, width)
    publish_report(_report(latencies, width, _judge_dialogues(settings)), as_json=as_json, picture=picture)


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one prompt, and prompts a second."""

    what: str
    at_once: int
    p50: float
    p95: float
    rate: float


def prompts(count: int) -> list[str]:
    """Distinct prompts of the corpus, in a seeded order."""
    texts = [text for text in load_corpus().prompts if len(text) <= LONGEST]
    return random.Random(SEED).sample(texts, count)


def bare_call(folder: Path, *, threads: int) -> Call:
    """A call that puts a prompt through sentence-transformers' own ``encode``, on a thread of its own."""
    from agents.shared.encoder import load_model

    model = load_model(folder)
    limiter = anyio.CapacityLimiter(1)

    def encode(text: str) -> None:
        import torch

        torch.set_num_threads(threads)
        model.encode(text, normalize_embeddings=True, show_progress_bar=False)

    async def call(text: str) -> None:
        await anyio.to_thread.run_sync(encode, text, limiter=limiter)

    return call


def router_call(agent: "RouterAgent") -> Call:
    """A call that puts a prompt through the router: batching, cache, embedding, classifier, gate."""

    async def call(text: str) -> None:
        await agent.route(RouteRequest(prompts=(text,)))

    return call


async def measure(
    contestants: dict[str, Call], *, singles: int, rounds: int, width: int, tick: Callable[[], Any]
) -> list[Latency]:
    """Time each contestant: ``singles`` prompts one by one, then ``rounds`` times ``width`` prompts at once."""
    names = list(contestants)
    texts = iter(prompts(WARM_UP + singles + rounds * width))
    for text in [next(texts) for _ in range(WARM_UP)]:
        for name in names:
            await contestants[name](text)
    single: dict[str, list[float]] = {name: [] for name in names}
    for number in range(singles):
        text = next(texts)
        for name in _rotated(names, number):
            single[name].append(await _time_call(contestants[name], text))
        tick()
    crowd: dict[str, list[float]] = {name: [] for name in names}
    crowd_seconds = dict.fromkeys(names, 0.0)
    for number in range(rounds):
        batch = [next(texts) for _ in range(width)]
        for name in _rotated(names, number):
            began = time.perf_counter()
            crowd[name] += await asyncio.gather(*(_time_call(contestants[name], text) for text in batch))
            crowd_seconds[name] += time.perf_counter() - began
        tick()
    alone = [_latency(name, 1, single[name], sum(single[name])) for name in names]
    return alone + [_latency(name, width, crowd[name], crowd_seconds[name]) for name in names]


def _rotated(names: Sequence[str], number: int) -> list[str]:
    first = number % len(names)
    return [*names[first:], *names[:first]]


async def measure_repeated(call: Call, *, times: int) -> Latency:
    """Time the same prompt again and again: the cost of an answer from the cache."""
    text = prompts(1)[0]
    await call(text)
    seconds = [await _time_call(call, text) for _ in range(times)]
    return _latency("router, repeated text", 1, seconds, sum(seconds))


async def _time_call(call: Call, text: str) -> float:
    began = time.perf_counter()
    await call(text)
    return time.perf_counter() - began


def _latency(contestant: str, at_once: int, seconds: Sequence[float], total_seconds: float) -> Latency:
    p50, p95 = (float(value) * 1000 for value in np.percentile(seconds, (50, 95)))
    return Latency(what=contestant, at_once=at_once, p50=p50, p95=p95, rate=len(seconds) / total_seconds)


async def _measure_router(settings: Settings, singles: int, rounds: int, width: int) -> list[Latency]:
    from agents.embedder.embedder import default_threads
    from runtime.local_router import load_router
    from runtime.models import prepare

    async with load_router(settings) as router_agent:
        contestants = {
            BARE: bare_call(prepare(settings.embedder), threads=default_threads()),
            ROUTER: router_call(router_agent),
        }
        with progress_bar("prompts", total=singles + rounds) as tick:
            latencies = await measure(contestants, singles=singles, rounds=rounds, width=width, tick=tick)
        latencies.append(await measure_repeated(contestants[ROUTER], times=singles))
    return latencies


def _judge_dialogues(settings: Settings) -> "dict[str, TurnFigures]":
    from agents.router.training.dialogues import judge
    from runtime.models import prepare

    return judge(embedder=prepare(settings.embedder))


def _dialogue_table(figures: "Mapping[str, TurnFigures]") -> Table:
    table = Table("turns", "count", "right", "niche right", "right alone", title="dialogues, cross-validated", box=None)
    for name, row in figures.items():
        table.add_row(name, str(row.turns), f"{row.right:.1%}", f"{row.niche:.1%}", f"{row.alone:.1%}")
    return table


def _report(latencies: Sequence[Latency], width: int, dialogues: "Mapping[str, TurnFigures]") -> BenchReport:
    table = Table("what", "at once", "p50 ms", "p95 ms", "prompts/s", title="kiki bench router", box=None)
    for row in latencies:
        table.add_row(row.what, str(row.at_once), f"{row.p50:.1f}", f"{row.p95:.1f}", f"{row.rate:.1f}")
    by_case = {(row.what, row.at_once): row for row in latencies}
    ratios = {
        "single_ratio": by_case[ROUTER, 1].p50 / by_case[BARE, 1].p50,
        "crowd_ratio": by_case[ROUTER, width].p50 / by_case[BARE, width].p50,
        "rate_ratio": by_case[ROUTER, width].rate / by_case[BARE, width].rate,
    }
    note = (
        f"alone {ratios['single_ratio']:.2f}x the latency of {BARE}; {width} at once "
        f"{ratios['crowd_ratio']:.2f}x its latency and {ratios['rate_ratio']:.2f}x its prompts/s"
    )
    return BenchReport(
        bench="router",
        fields={
            "unit": "ms",
            "rows": [asdict(row) for row in latencies],
            **ratios,
            "dialogues": msgspec.to_builtins(dict(dialogues)),
        },
        tables=[table, _dialogue_table(dialogues)],
        notes=[note],
        chart=bar_chart(
            [f"{row.what}\n{row.at_once} at once" for row in latencies],
            {"p50": [row.p50 for row in latencies], "p95": [row.p95 for row in latencies]},
            unit="ms a prompt",
            decimals=1,
            log=True,
            width=8,
        ),
    )
