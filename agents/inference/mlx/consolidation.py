"""The worker's part in consolidation: it exports weights, trains, stages weights and exchanges the adapter in use.

Files are written and directions computed on other threads; training steps and the exchange run on the model's.
"""

import hashlib
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from functools import partial

import anyio
import anyio.to_thread
import structlog

from agents.inference.adapter_watch import require_passed, take_verdict
from agents.inference.adapters.comparison import compare_with_served
from agents.inference.adapters.files import WEIGHTS, parse_pairs, scale_of
from agents.inference.failures import adapter_error
from agents.inference.mlx.thread import ModelThread
from agents.inference.training import exchange
from agents.inference.training.directions import dump_directions, frozen_weights, leading_directions
from agents.inference.training.steps import Training, TrainingExample, make_portable, step_flops
from agents.shared.adapters.folders import STAGED
from agents.shared.adapters.verdicts import read_digest
from agents.shared.disk import sync
from bus.agent import Endpoint
from bus.connection import Bus
from bus.metrics import count_degraded
from bus.storage import objects
from bus.stream import read_stream
from bus.topology import DREAMLOG
from schemas.adapters import AnglesReply, AnglesRequest
from schemas.calls import (
    ADAPTERS_ANGLES,
    ADAPTERS_DISCARD,
    ADAPTERS_EXCHANGE,
    ADAPTERS_EXPORT,
    ADAPTERS_PROTECT,
    ADAPTERS_RESTORE,
    ADAPTERS_STAGE,
    ADAPTERS_TRAIN,
)
from schemas.codec import decode
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
    RestoreReply,
    RestoreRequest,
    StageReply,
    StageRequest,
    TrainReply,
    TrainRequest,
)
from schemas.dream import DreamSwapped
from schemas.errors import InvalidEvent, KikiError, StageFailed

Tokenize = Callable[[Sequence[Example]], Awaitable[list[TrainingExample]]]
"""Turns examples into tokens."""

LOSS_SAMPLE = 16
"""Examples whose loss is measured before and after a training; all of them would cost as much as a pass."""

_log = structlog.get_logger("inference")


class Consolidation:
    """Serves ``adapters.{export,train,protect,stage,angles,exchange,restore,discard}`` on one engine.

    With the identity of a ``worker``, also under ``adapters.<verb>.<worker>``, where no other worker answers.
    """

    def __init__(self, thread: ModelThread, tokenize: Tokenize, bus: Bus, *, worker: str = "") -> None:
        self._thread, self._tokenize, self._bus, self._worker = thread, tokenize, bus, worker
        self._training_lock = anyio.Lock()
        self._following_lock = anyio.Lock()

    def endpoints(self) -> Sequence[Endpoint]:
        """One endpoint for each verb, and one for each that only this worker answers."""
        endpoints = (
            Endpoint(ADAPTERS_EXPORT, self.export),
            Endpoint(ADAPTERS_TRAIN, self.train),
            Endpoint(ADAPTERS_PROTECT, self.protect),
            Endpoint(ADAPTERS_STAGE, self.stage),
            Endpoint(ADAPTERS_ANGLES, self.read_angles),
            Endpoint(ADAPTERS_EXCHANGE, self.exchange),
            Endpoint(ADAPTERS_RESTORE, self.restore),
            Endpoint(ADAPTERS_DISCARD, self.discard),
        )
        own = [Endpoint(endpoint.service.at(self._worker), endpoint.handle) for endpoint in endpoints if self._worker]
        return (*endpoints, *own)

    async def follow_swaps(self) -> None:
        """Take over the swaps that other workers made while this one was away: an adapter whose file is one that a swap
        has replaced gets the weights of the last one. What cannot be taken over is counted.

        Raises:
            Unavailable: the broker is away.
        """
        async with self._following_lock:
            replaced: dict[str, set[str]] = {}
            latest: dict[str, str] = {}
            async for message in read_stream(self._bus, DREAMLOG, [self._bus.subjects.stage(DreamSwapped.subject)]):
                with suppress(InvalidEvent):
                    swap = decode(DreamSwapped, message.data)
                    replaced.setdefault(swap.adapter, set()).update((swap.base_sha256, swap.sha256))
                    latest[swap.adapter] = swap.sha256
            for name, sha256 in latest.items():
                await self._follow(name, sha256, replaced[name])

    async def _follow(self, name: str, sha256: str, replaced: Collection[str]) -> None:
        try:
            current = await self._digest(name)
            if current == sha256 or current not in replaced:
                return
            stage_reply = await self.stage(StageRequest(name=name, weights=sha256))
            exchange_request = ExchangeRequest(name=name, staged=stage_reply.staged, base_sha256=current)
            await self.exchange(exchange_request)
            await self.discard(DiscardRequest(staged=stage_reply.staged))
        except (KikiError, OSError) as error:
            if getattr(error, "code", "") == "adapter_not_found":
                return  # it is no adapter of this worker
            reason = f"'{name}' is older than that of other workers ({error}): copy the file of digest {sha256[:12]}"
            count_degraded("adapter.behind", reason)

    async def _digest(self, name: str) -> str:
        """The digest of the adapter's file."""
        path = self._thread.decoder.bank.registration.find_file(name)
        return await anyio.to_thread.run_sync(read_digest, path)

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
        if request.present:
            return await anyio.to_thread.run_sync(exchange.stage_present, bank.registration, request)
        data = await objects.get(self._bus, request.weights, param="weights")
        folder = exchange.adapter_folder(bank.folder, request.name).parent
        staged_name = await anyio.to_thread.run_sync(exchange.stage, folder, request.name, data)
        try:
            adapter = await self._thread.ask(lambda: bank.prove(staged_name))
        except StageFailed:
            await anyio.to_thread.run_sync(exchange.discard, folder, staged_name)
            raise
        base_sha256 = await self._digest(request.name)
        return StageReply(staged=staged_name, sha256=adapter.sha256, bytes=adapter.nbytes, base_sha256=base_sha256)

    async def read_angles(self, request: AnglesRequest) -> AnglesReply:
        """Read an adapter's health, and its angles to all that are served. Verdicts that came meanwhile count."""
        bank = self._thread.decoder.bank
        verdicts = bank.registration.verdicts
        if verdicts is None:
            raise adapter_error(request.name, "there is no folder whose adapters are judged")
        for verdict in verdicts.waiting:
            await take_verdict(self._bus, verdicts, verdict.name, verdict.sha256)
        compare = partial(compare_with_served, bank.registration, verdicts, bank.modules, request)
        return await anyio.to_thread.run_sync(compare)

    async def exchange(self, request: ExchangeRequest) -> ExchangeReply:
        """Exchange the adapter between two decoding steps; running requests keep the weights that they began with."""
        decoder = self._thread.decoder
        registration = decoder.bank.registration
        if registration.verdicts is not None and request.staged in registration:
            sha256 = await anyio.to_thread.run_sync(read_digest, registration.find_file(request.staged))
            await require_passed(self._bus, registration.verdicts, request.name, sha256)

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

    async def restore(self, request: RestoreRequest) -> RestoreReply:
        """Put back what an exchange has replaced, between two decoding steps."""
        decoder = self._thread.decoder

        def put_back() -> str:
            return exchange.restore(
                decoder.bank, request.name, request.staged, request.base_sha256, busy_slots=decoder.busy_slots
            )

        sha256 = await self._thread.ask(put_back)
        await anyio.to_thread.run_sync(sync, exchange.adapter_folder(decoder.bank.folder, request.name))
        _log.warning("adapter put back", adapter=request.name, sha256=sha256[:12])
        return RestoreReply(name=request.name, sha256=sha256)

    async def discard(self, request: DiscardRequest) -> DiscardReply:
        """Remove a staged adapter from memory and from the disk; rows that use it finish."""
        decoder = self._thread.decoder
        if (folder := decoder.bank.folder) is None:
            raise adapter_error(request.staged, "there is no adapters folder")
        if STAGED in request.staged:
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
