"""The swap: judges a proposed adapter while the old one answers, and exchanges the two in one step if all checks pass.

As framework C demands, nothing is exchanged that has not passed S2, S1, S3 and S4. The checks run before the pause and
not in it, because S1 alone takes seconds of model time; they read the very bytes (by digest) that the worker then
exchanges. The exchange compares the base's digest again, so nothing that changed meanwhile is overwritten.
"""

from dataclasses import dataclass, field

import anyio
import structlog

from agents.dream import factors, invariants, journal
from agents.dream.retained import RetainedJudgement, RetainedSet, judge
from agents.dream.settings import DreamSettings
from agents.dream.weights import ExportedAdapter, export_adapter
from bus import metrics
from bus.connection import Bus
from bus.storage import objects
from schemas.adapters import AdapterProposed, AdapterPublished, AdapterRejected, Gate
from schemas.consolidation import (
    DiscardReply,
    DiscardRequest,
    ExchangeReply,
    ExchangeRequest,
    StageReply,
    StageRequest,
    SwapReply,
    SwapRequest,
)
from schemas.dream import DreamSwapped
from schemas.envelope import Envelope, new_turn
from schemas.errors import KikiError, Refused
from schemas.findings import AdapterUse

ORIGIN = "dream"
_log = structlog.get_logger("dream")


@dataclass
class _PendingSwap:
    """A swap while it is judged; ``gates`` in the order in which they were passed."""

    request: SwapRequest
    envelope: Envelope
    gates: list[Gate] = field(default_factory=list)
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
        proposed_weights = factors.load(request.adapter, data, scale=current.scale)
        await self._judge_weights(case, current, proposed_weights)
        return await self._exchange(case)

    async def _judge_weights(
        self, case: _PendingSwap, current: ExportedAdapter, proposed_weights: factors.Weights
    ) -> None:
        """Check S2 and S3 on the numbers, then S1 and the gate on forgetting on the model's answers with them."""
        request, settings = case.request, self._settings
        invariants.check_finite(proposed_weights)
        case.note_pass("S2", bound=invariants.MAX_WEIGHT)
        other_adapters = [
            await export_adapter(self._bus, name, timeout=settings.worker_timeout) for name in request.others
        ]
        known_paths = {path for adapter in (current, *other_adapters) for path in adapter.weights}
        invariants.check_hierarchy(tuple(proposed_weights), known_paths)
        case.note_pass("S3", len(proposed_weights))
        stage_request = StageRequest(name=request.adapter, weights=request.sha256)
        stage_reply = await self._bus.request(
            "adapters.stage", stage_request, StageReply, timeout=settings.worker_timeout
        )
        case.staged = stage_reply.staged
        before = await self._judge(AdapterUse(name=request.adapter, sha256=current.sha256))
        after = await self._judge(AdapterUse(name=stage_reply.staged, sha256=request.sha256))
        case.before, case.after = before.accuracy, after.accuracy
        invariants.check_retained(before.accuracy, after.accuracy)
        case.note_pass("S1", after.accuracy, before.accuracy - invariants.MAX_REGRESSION)
        update = factors.difference(proposed_weights, current.weights)
        angle = min((factors.angle(update, other.weights) for other in other_adapters), default=90.0)
        invariants.check_forgetting(angle, after.win_rate_over(before))
        case.note_pass("forgetting", after.win_rate_over(before), 0.5 - invariants.MAX_WIN_DROP)

    async def _judge(self, use: AdapterUse) -> RetainedJudgement:
        """Judgements are kept by digest, so that the adapter in use is judged once for any number of swaps."""
        if use.sha256 not in self._judgements:
            judgement = await judge(
                self._bus,
                self._retained.questions,
                use,
                timeout=self._settings.judge_timeout,
                at_once=self._settings.judges,
            )
            self._judgements[use.sha256] = judgement
        return self._judgements[use.sha256]

    async def _exchange(self, case: _PendingSwap) -> SwapReply:
        request, bus = case.request, self._bus
        assert case.staged is not None, "judged, so staged"
        exchange = ExchangeRequest(name=request.adapter, staged=case.staged, base_sha256=request.base_sha256)
        exchange_reply = await bus.request(
            "adapters.exchange", exchange, ExchangeReply, timeout=self._settings.worker_timeout
        )
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
            pause_ms=exchange_reply.pause_ms,
            retained_set=self._retained.sha256,
            retained_before=case.before,
            retained_after=case.after,
            attention_prior=request.attention_prior,
        )
        await bus.publish(publication)
        await bus.publish(swap_event)
        _log.info(
            "adapter swapped", adapter=request.adapter, sha256=request.sha256[:12], pause_ms=exchange_reply.pause_ms
        )
        return _reply(swap_event)

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
        try:
            await self._bus.request("adapters.discard", discard, DiscardReply, timeout=self._settings.worker_timeout)
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
