"""How long an adapter's exchange holds up who is being answered: measured while requests decode with that adapter."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
import numpy as np
from safetensors.numpy import load, save

from bus import objects
from bus.connection import Bus
from schemas.consolidation import (
    DiscardReply,
    DiscardRequest,
    ExchangeReply,
    ExchangeRequest,
    ExportReply,
    ExportRequest,
    StageReply,
    StageRequest,
)
from schemas.status import StatusReply

TIMEOUT = 60.0


@dataclass(frozen=True, kw_only=True)
class Pause:
    """One exchange: milliseconds without decoding by the worker's clock, milliseconds from request to reply by ours,
    and the rows that were being decoded just before it."""

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
    """Exchange an adapter for a slightly different one, ``times`` times, while ``clients`` tasks call ``ask_once``."""
    measurements: list[Pause] = []
    current = await bus.request("adapters.export", ExportRequest(name=name), ExportReply, timeout=TIMEOUT)
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
    stage_reply = await bus.request(
        "adapters.stage", StageRequest(name=name, weights=weights), StageReply, timeout=TIMEOUT
    )
    worker = await bus.request("status.inference", StatusReply(agent="", ready=False), StatusReply, timeout=TIMEOUT)
    request = ExchangeRequest(name=name, staged=stage_reply.staged, base_sha256=base)
    started = time.perf_counter()
    reply = await bus.request("adapters.exchange", request, ExchangeReply, timeout=TIMEOUT)
    milliseconds = (time.perf_counter() - started) * 1000
    await bus.request("adapters.discard", DiscardRequest(staged=stage_reply.staged), DiscardReply, timeout=TIMEOUT)
    return Pause(pause_ms=reply.pause_ms, answered_ms=milliseconds, rows=int(worker.gauges["active_rows"]))


def _nudged(data: bytes, *, seed: int) -> bytes:
    tensors = load(data)
    path = sorted(tensors)[0]
    noise = np.random.default_rng(seed).standard_normal(tensors[path].shape).astype(tensors[path].dtype)
    changed: bytes = save({**tensors, path: tensors[path] + noise * tensors[path].dtype.type(1e-4)})
    return changed
