"""The worker's part in consolidation: it exports weights, trains, stages weights and exchanges the adapter in use.

Files are written and directions computed on other threads; training steps and the exchange run on the model's.
"""

import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import anyio
import anyio.to_thread
import structlog

from agents.inference.adapters.files import WEIGHTS, parse_pairs, scale_of
from agents.inference.failures import adapter_error
from agents.inference.mlx.thread import ModelThread
from agents.inference.training import exchange
from agents.inference.training.directions import dump_directions, frozen_weights, leading_directions
from agents.inference.training.steps import Training, TrainingExample, make_portable, step_flops
from agents.shared.disk import sync
from bus.agent import Endpoint
from bus.connection import Bus
from bus.storage import objects
from schemas.consolidation import (
    DiscardReply,
    DiscardRequest,
    Example,
    ExchangeReply,
    ExchangeRequest,
    ExportReply,
    ExportRequest,
    ProtectReply,
    ProtectRequest,
    StageReply,
    StageRequest,
    TrainReply,
    TrainRequest,
)
from schemas.errors import StageFailed

Tokenize = Callable[[Sequence[Example]], Awaitable[list[TrainingExample]]]
"""Turns examples into tokens."""

LOSS_SAMPLE = 16
"""Examples whose loss is measured before and after a training; all of them would cost as much as a pass."""

_log = structlog.get_logger("inference")


class Consolidation:
    """Serves ``adapters.{export,train,protect,stage,exchange,discard}`` on one engine."""

    def __init__(self, thread: ModelThread, tokenize: Tokenize, bus: Bus) -> None:
        self._thread, self._tokenize, self._bus = thread, tokenize, bus
        self._training_lock = anyio.Lock()

    def endpoints(self) -> Sequence[Endpoint]:
        """One endpoint for each verb."""
        return (
            Endpoint(verb="adapters.export", request=ExportRequest, handle=self.export),
            Endpoint(verb="adapters.train", request=TrainRequest, handle=self.train),
            Endpoint(verb="adapters.protect", request=ProtectRequest, handle=self.protect),
            Endpoint(verb="adapters.stage", request=StageRequest, handle=self.stage),
            Endpoint(verb="adapters.exchange", request=ExchangeRequest, handle=self.exchange),
            Endpoint(verb="adapters.discard", request=DiscardRequest, handle=self.discard),
        )

    async def export(self, request: ExportRequest) -> ExportReply:
        """Store the weights of the file in use; the digest is of the very bytes that were read."""
        bank = self._thread.decoder.bank
        folder = exchange.adapter_folder(bank.folder, request.name)
        scale = scale_of(folder)
        data = await anyio.to_thread.run_sync((folder / WEIGHTS).read_bytes)
        pairs = await self._thread.ask(lambda: parse_pairs(request.name, data, bank.modules, scale=scale))
        weights = await objects.put(self._bus, await self._thread.ask(lambda: make_portable(data)))
        return ExportReply(
            name=request.name,
            sha256=hashlib.sha256(data).hexdigest(),
            weights=weights,
            scale=scale,
            modules=len(pairs),
            bytes=len(data),
        )

    async def train(self, request: TrainRequest) -> TrainReply:
        """Train on every example, one step each, in order; a step that would go over the budget ends it with an
        error."""
        started, thread = time.monotonic(), self._thread
        bank = thread.decoder.bank
        scale = scale_of(exchange.adapter_folder(bank.folder, request.name))
        data = await objects.get(self._bus, request.weights, param="weights")
        examples = await self._tokenize(request.examples)
        rate = request.learning_rate
        async with self._training_lock:
            training = await thread.ask(lambda: Training(bank, request.name, data, scale=scale, learning_rate=rate))
            before = await self._mean_loss(training, examples, request.beat)
            cost = 0.0
            for example in [*examples] * request.passes:
                cost += step_flops(bank, len(example.tokens))
                _check_budget(request, flops=cost, seconds=time.monotonic() - started)
                await thread.ask(partial(training.step, example))
                await self._beat(request.beat)
            after = await self._mean_loss(training, examples, request.beat)
            weights = await objects.put(self._bus, await thread.ask(training.dump))
        return TrainReply(
            weights=weights,
            loss_before=before,
            loss_after=after,
            steps=len(examples) * request.passes,
            tokens=training.tokens,
            flops=cost,
            seconds=time.monotonic() - started,
        )

    async def protect(self, request: ProtectRequest) -> ProtectReply:
        """Store the leading singular directions of the modules that the adapter changes."""
        thread = self._thread
        bank = thread.decoder.bank
        adapter = await thread.ask(lambda: bank.check(request.name))
        directions = {}
        for path in adapter.pairs:
            matrix = await thread.ask(partial(frozen_weights, bank.modules[path]))
            directions[path] = await anyio.to_thread.run_sync(leading_directions, matrix, request.k)
        return ProtectReply(directions=await objects.put(self._bus, dump_directions(directions)))

    async def stage(self, request: StageRequest) -> StageReply:
        """Write the weights to disk, verify, load and prove them, so that the exchange itself is short."""
        bank = self._thread.decoder.bank
        data = await objects.get(self._bus, request.weights, param="weights")
        folder = exchange.adapter_folder(bank.folder, request.name).parent
        staged_name = await anyio.to_thread.run_sync(exchange.stage, folder, request.name, data)
        try:
            adapter = await self._thread.ask(lambda: bank.prove(staged_name))
        except StageFailed:
            await anyio.to_thread.run_sync(exchange.discard, folder, staged_name)
            raise
        return StageReply(staged=staged_name, sha256=adapter.sha256, bytes=adapter.nbytes)

    async def exchange(self, request: ExchangeRequest) -> ExchangeReply:
        """Exchange the adapter between two decoding steps; running requests keep the weights that they began with."""
        decoder = self._thread.decoder

        def swap() -> tuple[float, str]:
            is_used = decoder.is_using(request.name)
            pause = exchange.exchange(
                decoder.bank,
                request.name,
                request.staged,
                request.base_sha256,
                busy_slots=decoder.busy_slots,
                is_used=is_used,
            )
            return pause, decoder.bank.load(request.name).sha256

        pause, sha256 = await self._thread.ask(swap)
        await anyio.to_thread.run_sync(sync, exchange.adapter_folder(decoder.bank.folder, request.name))
        _log.info("adapter exchanged", adapter=request.name, sha256=sha256[:12], pause_ms=round(pause, 1))
        return ExchangeReply(name=request.name, sha256=sha256, pause_ms=pause)

    async def discard(self, request: DiscardRequest) -> DiscardReply:
        """Remove a staged adapter from memory and from the disk; rows that use it finish."""
        decoder = self._thread.decoder
        if (folder := decoder.bank.folder) is None:
            raise adapter_error(request.staged, "there is no adapters folder")
        if exchange.MARK in request.staged:
            await self._thread.ask(lambda: decoder.bank.unload(request.staged, busy_slots=decoder.busy_slots))
        existed = await anyio.to_thread.run_sync(exchange.discard, folder, request.staged)
        return DiscardReply(discarded=existed)

    async def _mean_loss(self, training: Training, examples: Sequence[TrainingExample], beat: str) -> float:
        sample, losses = examples[:: max(1, len(examples) // LOSS_SAMPLE)][:LOSS_SAMPLE], []
        for example in sample:
            losses.append(await self._thread.ask(partial(training.loss, example)))
            await self._beat(beat)
        return sum(losses) / len(losses)

    async def _beat(self, subject: str) -> None:
        if subject:
            await self._bus.send(subject)


def _check_budget(request: TrainRequest, *, flops: float, seconds: float) -> None:
    for name, cost, limit in (("flops", flops, request.flops), ("seconds", seconds, request.seconds)):
        if cost > limit:
            raise StageFailed(
                f"the training would cost {cost:.4g} {name} of {limit:.4g}; its weights are discarded.",
                code="budget_exceeded",
                param=name,
            )
