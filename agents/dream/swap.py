"""The swap: judges a proposed adapter while the old one answers, and exchanges the two in one step if all checks pass.

As framework C demands, nothing is exchanged that has not passed S2, S1, S3 and S4. The checks run before the pause and
not in it, because S1 alone takes seconds of model time; they read the very bytes (by digest) that the worker then
exchanges. The exchange compares the base's digest again, so nothing that changed meanwhile is overwritten.

Of several workers all stage the weights first, and confirm which they would replace; then all exchange. When one fails,
the others put back what they had. A worker that was away reads of the swap when it is back, and takes it over.
"""

from dataclasses import dataclass, field
from typing import TypeVar

import anyio
import msgspec
import structlog

from agents.dream import invariants, journal
from agents.dream.settings import DreamSettings
from agents.dream.weights import ExportedAdapter, export_adapter
from agents.shared.adapters import low_rank
from agents.shared.examination import examine
from agents.shared.retained import RetainedJudgement, RetainedSet
from agents.shared.workers import ask_worker, find_workers
from bus import metrics
from bus.connection import Bus
from bus.storage import objects
from schemas.adapters import AdapterProposed, AdapterPublished, AdapterRejected, Gate, JudgeRequest
from schemas.calls import ADAPTERS_DISCARD, ADAPTERS_EXCHANGE, ADAPTERS_RESTORE, ADAPTERS_STAGE, GATES_JUDGE, Service
from schemas.consolidation import (
    DiscardRequest,
    ExchangeRequest,
    RestoreRequest,
    StageRequest,
    SwapReply,
    SwapRequest,
)
from schemas.dream import DreamSwapped
from schemas.envelope import Envelope, new_turn
from schemas.errors import KikiError, Refused
from schemas.findings import AdapterUse

Q = TypeVar("Q", bound=msgspec.Struct | None)
R = TypeVar("R", bound=msgspec.Struct)

ORIGIN = "dream"
_log = structlog.get_logger("dream")


@dataclass
class _PendingSwap:
    """A swap while it is judged; ``gates`` in the order in which they were passed."""

    request: SwapRequest
    envelope: Envelope
    gates: list[Gate] = field(default_factory=list)
    workers: tuple[str, ...] = ("",)
    staged: str | None = None
    before: float = 0.0
    after: float = 0.0

    def note_pass(self, name: str, value: float | None = None, bound: float | None = None) -> None:
        self.gates.append(Gate(name=name, passed=True, value=value, bound=bound))


class Swaps:
    """One swap at a time."""

    def __init__(self, bus: Bus, settings: DreamSettings, retained: RetainedSet) -> None:
        self._bus, self._settings, self._retained = bus, settings, retained
        self._swap_lock = anyio.Lock()
        self._judgements: dict[str, RetainedJudgement] = {}

    async def swap(self, request: SwapRequest) -> SwapReply:
        """Judge and exchange. A request whose swap was already made gets the same reply again.

        Raises:
            Refused: another swap is under way.
            StageFailed: code ``invariant_broken``; the adapter is as it was, and ``adapter.rejected`` says why.
            KikiError: the adapter or the object is not there, or the worker is away.
        """
        earlier_swap = await journal.find_swap(self._bus, request.episode_id)
        if earlier_swap is not None and earlier_swap.sha256 == request.sha256:
            return _reply(earlier_swap)
        if self._swap_lock.locked():
            raise Refused("another swap is under way: try again when it is done.")
        async with self._swap_lock:
            case = _PendingSwap(request, _envelope(request))
            try:
                return await self._judge_and_exchange(case)
            except KikiError as error:
                if not error.retryable:
                    await self._reject(case, error)
                raise
            finally:
                with anyio.CancelScope(shield=True):
                    await self._discard(case)

    async def _judge_and_exchange(self, case: _PendingSwap) -> SwapReply:
        request, bus = case.request, self._bus
        invariants.check_priors(request.attention_prior)
        case.note_pass("S4", sum(request.attention_prior.values()), invariants.MAX_PRIORS)
        current = await export_adapter(bus, request.adapter, timeout=self._settings.worker_timeout)
        data = await objects.get(bus, request.sha256)
        if current.sha256 != request.sha256 and current.sha256 != request.base_sha256:
            raise invariants.invariant_error(
                "base_sha256", f"'{request.adapter}' has digest {current.sha256[:12]} by now; begin again"
            )
        await bus.publish(
            AdapterProposed(
                envelope=case.envelope.next("proposed"), name=request.adapter, sha256=request.sha256, origin=ORIGIN
            )
        )
        proposed_weights = low_rank.load(request.adapter, data, scale=current.scale)
        await self._judge_weights(case, current, proposed_weights)
        return await self._exchange(case)

    async def _judge_weights(
        self, case: _PendingSwap, current: ExportedAdapter, proposed_weights: low_rank.Weights
    ) -> None:
        """Check S2 and S3 on the numbers, then S1 on the model's answers with them, and ask the gates."""
        request, settings = case.request, self._settings
        invariants.check_finite(proposed_weights)
        case.note_pass("S2", bound=invariants.MAX_WEIGHT)
        other_adapters = [
            await export_adapter(self._bus, name, timeout=settings.worker_timeout) for name in request.others
        ]
        known_paths = {path for adapter in (current, *other_adapters) for path in adapter.weights}
        invariants.check_hierarchy(tuple(proposed_weights), known_paths)
        case.note_pass("S3", len(proposed_weights))
        case.staged = staged = await self._stage(case)
        before = await self._judge(AdapterUse(name=request.adapter, sha256=current.sha256))
        after = await self._judge(AdapterUse(name=staged, sha256=request.sha256))
        case.before, case.after = before.accuracy, after.accuracy
        invariants.check_retained(before.accuracy, after.accuracy)
        case.note_pass("S1", after.accuracy, before.accuracy - invariants.MAX_REGRESSION)
        await self._ask_gates(case, staged)

    async def _ask_gates(self, case: _PendingSwap, staged: str) -> None:
        """Have the gates judge the staged weights against every other adapter that is served."""
        request = JudgeRequest(name=case.request.adapter, sha256=case.request.sha256, staged=staged)
        verdict = await self._bus.request(GATES_JUDGE, request, timeout=self._settings.gates_timeout)
        if not verdict.passed:
            raise invariants.invariant_error("gates", verdict.message)
        case.gates += verdict.gates

    async def _stage(self, case: _PendingSwap) -> str:
        """Stage the weights at every worker. Returns the name under which they are staged, the same everywhere.

        Raises:
            StageFailed: code ``invariant_broken``: a worker has other weights in use than the swap replaces.
            KikiError: a worker refuses, or is away; what others have staged is discarded.
        """
        request, names = case.request, set()
        stage_request = StageRequest(name=request.adapter, weights=request.sha256)
        case.workers = await find_workers(self._bus)
        for worker in case.workers:
            reply = await self._ask(worker, ADAPTERS_STAGE, stage_request)
            case.staged = reply.staged
            names.add(reply.staged)
            if reply.base_sha256 not in ("", request.base_sha256, request.sha256):
                raise invariants.invariant_error(
                    "base_sha256",
                    f"worker {worker} has '{request.adapter}' with digest {reply.base_sha256[:12]}, and the swap "
                    f"replaces {request.base_sha256[:12]}: give all workers the same file",
                )
        (name,) = names
        return name

    async def _ask(self, worker: str, service: Service[Q, R], request: Q) -> R:
        return await ask_worker(self._bus, worker, service, request, timeout=self._settings.worker_timeout)

    async def _judge(self, use: AdapterUse) -> RetainedJudgement:
        """Judgements are kept by digest, so that the adapter in use is judged once for any number of swaps."""
        if use.sha256 not in self._judgements:
            judgement = await examine(
                self._bus,
                self._retained.questions,
                (use,),
                tenant=ORIGIN,
                timeout=self._settings.judge_timeout,
                at_once=self._settings.judges,
            )
            self._judgements[use.sha256] = judgement
        return self._judgements[use.sha256]

    async def _exchange(self, case: _PendingSwap) -> SwapReply:
        request, bus = case.request, self._bus
        assert case.staged is not None, "judged, so staged"
        pause_ms = await self._exchange_everywhere(case, case.staged)
        publication = AdapterPublished(
            envelope=case.envelope.next("published"),
            name=request.adapter,
            sha256=request.sha256,
            origin=ORIGIN,
            gates=tuple(case.gates),
        )
        swap_event = DreamSwapped(
            envelope=case.envelope.next("swapped"),
            adapter=request.adapter,
            sha256=request.sha256,
            base_sha256=request.base_sha256,
            pause_ms=pause_ms,
            retained_set=self._retained.sha256,
            retained_before=case.before,
            retained_after=case.after,
            attention_prior=request.attention_prior,
        )
        await bus.publish(publication)
        await bus.publish(swap_event)
        _log.info(
            "adapter swapped",
            adapter=request.adapter,
            sha256=request.sha256[:12],
            pause_ms=pause_ms,
            workers=len(case.workers),
        )
        return _reply(swap_event)

    async def _exchange_everywhere(self, case: _PendingSwap, staged: str) -> float:
        """Exchange at every worker, or at none: when one fails, the others put back what they had.

        Returns:
            The longest pause in milliseconds.

        Raises:
            KikiError: what the one worker failed with.
        """
        request, pauses = case.request, []
        exchange = ExchangeRequest(name=request.adapter, staged=staged, base_sha256=request.base_sha256)
        try:
            for worker in case.workers:
                reply = await self._ask(worker, ADAPTERS_EXCHANGE, exchange)
                pauses.append(reply.pause_ms)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._put_back(case, staged)
            raise
        return max(pauses)

    async def _put_back(self, case: _PendingSwap, staged: str) -> None:
        """Undo the exchange wherever it was made, also where its reply was lost."""
        request = case.request
        restore = RestoreRequest(name=request.adapter, staged=staged, base_sha256=request.base_sha256)
        for worker in case.workers:
            try:
                await self._ask(worker, ADAPTERS_RESTORE, restore)
            except KikiError as error:
                metrics.count_degraded("dream.restore", f"worker {worker or 'any'}: {error.message}")

    async def _reject(self, case: _PendingSwap, error: KikiError) -> None:
        """Publish the refusal with its reason. The requester gets the error even if the broker does not take it."""
        request = case.request
        case.gates.append(Gate(name=error.param or error.code, passed=False, detail=error.message))
        try:
            await self._bus.publish(
                AdapterRejected(
                    envelope=case.envelope.next("rejected"),
                    name=request.adapter,
                    stage="gates",
                    code=error.code,
                    message=error.message,
                    sha256=request.sha256,
                    gates=tuple(case.gates),
                )
            )
        except KikiError as publish_error:
            metrics.count_degraded("dream.rejection", publish_error.message)

    async def _discard(self, case: _PendingSwap) -> None:
        if case.staged is None:
            return
        discard = DiscardRequest(staged=case.staged)
        for worker in case.workers:
            try:
                await self._ask(worker, ADAPTERS_DISCARD, discard)
            except KikiError as error:
                metrics.count_degraded("dream.staged", error.message)


def _envelope(request: SwapRequest) -> Envelope:
    """The swap's envelope. Its ids come from the episode, so that an event published before a crash is a duplicate
    after."""
    fresh = new_turn(tenant=ORIGIN, session_id=request.adapter, timeout=3600.0)
    return Envelope(
        event_id=f"{request.episode_id}:swap",
        turn_id=request.episode_id,
        session_id=request.adapter,
        tenant=ORIGIN,
        created_at=fresh.created_at,
        deadline=fresh.deadline,
    )


def _reply(swap_event: DreamSwapped) -> SwapReply:
    return SwapReply(
        episode_id=swap_event.envelope.turn_id,
        adapter=swap_event.adapter,
        sha256=swap_event.sha256,
        base_sha256=swap_event.base_sha256,
        pause_ms=swap_event.pause_ms,
        retained_before=swap_event.retained_before,
        retained_after=swap_event.retained_after,
    )
