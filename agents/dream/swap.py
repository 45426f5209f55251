"""The swap: a proposed adapter is judged while the old one answers, and put in its place in one step if all holds.

The order of framework C is kept in what it guards, not in what waits: S2, S1, S3 and S4 are judged before the pause, on
the very bytes (by digest) that the worker exchanges in it, because S1 alone is seconds of model time. The exchange
compares the base's digest again, so nothing that changed meanwhile is overwritten.
"""

from dataclasses import dataclass, field

import anyio
import structlog

from agents.dream import factors, invariants, journal
from agents.dream.retained import Judgement, RetainedSet, judge
from agents.dream.settings import DreamSettings
from agents.dream.weights import Exported, exported
from bus import metrics, objects
from bus.connection import Bus
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
class _Case:
    """A swap while it is judged; ``gates`` in the order in which they were passed."""

    request: SwapRequest
    envelope: Envelope
    gates: list[Gate] = field(default_factory=list)
    staged: str | None = None
    before: float = 0.0
    after: float = 0.0

    def passed(self, name: str, value: float | None = None, bound: float | None = None) -> None:
        self.gates.append(Gate(name=name, passed=True, value=value, bound=bound))


class Swaps:
    """One swap at a time."""

    def __init__(self, bus: Bus, settings: DreamSettings, retained: RetainedSet) -> None:
        self._bus, self._settings, self._retained = bus, settings, retained
        self._one = anyio.Lock()
        self._judged: dict[str, Judgement] = {}

    async def swap(self, request: SwapRequest) -> SwapReply:
        """Judge and exchange. A swap that was made before is told again.

        Raises:
            Refused: another swap is under way.
            StageFailed: code ``invariant_broken``; the adapter is as it was, and ``adapter.rejected`` says why.
            KikiError: the adapter or the object is not there, or the worker is away.
        """
        made = await journal.swapped(self._bus, request.episode_id)
        if made is not None and made.sha256 == request.sha256:
            return _reply(made)
        if self._one.locked():
            raise Refused("another swap is under way: try again when it is done.")
        async with self._one:
            case = _Case(request, _envelope(request))
            try:
                return await self._swap(case)
            except KikiError as error:
                if not error.retryable:
                    await self._reject(case, error)
                raise
            finally:
                with anyio.CancelScope(shield=True):
                    await self._discard(case)

    async def _swap(self, case: _Case) -> SwapReply:
        request, bus = case.request, self._bus
        invariants.priors(request.attention_prior)
        case.passed("S4", sum(request.attention_prior.values()), invariants.MAX_PRIORS)
        current = await exported(bus, request.adapter, timeout=self._settings.worker_timeout)
        data = await objects.get(bus, request.sha256)
        if current.sha256 != request.sha256 and current.sha256 != request.base_sha256:
            raise invariants.broken("base_sha256", f"'{request.adapter}' is {current.sha256[:12]} by now; begin again")
        await bus.publish(
            AdapterProposed(
                envelope=case.envelope.next("proposed"), name=request.adapter, sha256=request.sha256, origin=ORIGIN
            )
        )
        proposed = factors.load(request.adapter, data, scale=current.scale)
        await self._judge_weights(case, current, proposed)
        return await self._exchange(case)

    async def _judge_weights(self, case: _Case, current: Exported, proposed: factors.Weights) -> None:
        """S2 and S3 on the numbers, then S1 and the gate on forgetting on what the model says with them."""
        request, settings = case.request, self._settings
        invariants.finite(proposed)
        case.passed("S2", bound=invariants.MAX_WEIGHT)
        others = [await exported(self._bus, name, timeout=settings.worker_timeout) for name in request.others]
        known = {path for one in (current, *others) for path in one.weights}
        invariants.hierarchy(tuple(proposed), known)
        case.passed("S3", len(proposed))
        stage = StageRequest(name=request.adapter, weights=request.sha256)
        staged = await self._bus.request("adapters.stage", stage, StageReply, timeout=settings.worker_timeout)
        case.staged = staged.staged
        before = await self._judge(AdapterUse(name=request.adapter, sha256=current.sha256))
        after = await self._judge(AdapterUse(name=staged.staged, sha256=request.sha256))
        case.before, case.after = before.accuracy, after.accuracy
        invariants.retained(before.accuracy, after.accuracy)
        case.passed("S1", after.accuracy, before.accuracy - invariants.MAX_REGRESSION)
        update = factors.difference(proposed, current.weights)
        angle = min((factors.angle(update, other.weights) for other in others), default=90.0)
        invariants.forgetting(angle, after.wins(before))
        case.passed("forgetting", after.wins(before), 0.5 - invariants.MAX_WIN_DROP)

    async def _judge(self, use: AdapterUse) -> Judgement:
        """By digest, so that what is in use is judged once however many swaps are tried."""
        if use.sha256 not in self._judged:
            found = await judge(
                self._bus,
                self._retained.questions,
                use,
                timeout=self._settings.judge_timeout,
                at_once=self._settings.judges,
            )
            self._judged[use.sha256] = found
        return self._judged[use.sha256]

    async def _exchange(self, case: _Case) -> SwapReply:
        request, bus = case.request, self._bus
        assert case.staged is not None, "judged, so staged"
        exchange = ExchangeRequest(name=request.adapter, staged=case.staged, base_sha256=request.base_sha256)
        found = await bus.request("adapters.exchange", exchange, ExchangeReply, timeout=self._settings.worker_timeout)
        published = AdapterPublished(
            envelope=case.envelope.next("published"),
            name=request.adapter,
            sha256=request.sha256,
            origin=ORIGIN,
            gates=tuple(case.gates),
        )
        made = DreamSwapped(
            envelope=case.envelope.next("swapped"),
            adapter=request.adapter,
            sha256=request.sha256,
            base_sha256=request.base_sha256,
            pause_ms=found.pause_ms,
            retained_set=self._retained.sha256,
            retained_before=case.before,
            retained_after=case.after,
            attention_prior=request.attention_prior,
        )
        await bus.publish(published)
        await bus.publish(made)
        _log.info("adapter swapped", adapter=request.adapter, sha256=request.sha256[:12], pause_ms=found.pause_ms)
        return _reply(made)

    async def _reject(self, case: _Case, error: KikiError) -> None:
        """Keep the refusal with its reason. The asker gets it whether or not the broker takes it."""
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
        except KikiError as lost:
            metrics.degraded("dream.rejection", lost.message)

    async def _discard(self, case: _Case) -> None:
        if case.staged is None:
            return
        discard = DiscardRequest(staged=case.staged)
        try:
            await self._bus.request("adapters.discard", discard, DiscardReply, timeout=self._settings.worker_timeout)
        except KikiError as error:
            metrics.degraded("dream.staged", error.message)


def _envelope(request: SwapRequest) -> Envelope:
    """Of the episode's own story, so that an event that was published before a crash is a duplicate after it."""
    fresh = new_turn(tenant=ORIGIN, session_id=request.adapter, timeout=3600.0)
    return Envelope(
        event_id=f"{request.episode_id}:swap",
        turn_id=request.episode_id,
        session_id=request.adapter,
        tenant=ORIGIN,
        created_at=fresh.created_at,
        deadline=fresh.deadline,
    )


def _reply(made: DreamSwapped) -> SwapReply:
    return SwapReply(
        episode_id=made.envelope.turn_id,
        adapter=made.adapter,
        sha256=made.sha256,
        base_sha256=made.base_sha256,
        pause_ms=made.pause_ms,
        retained_before=made.retained_before,
        retained_after=made.retained_after,
    )
