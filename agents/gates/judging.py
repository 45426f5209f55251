"""The verdict on an adapter that a worker has: the rules of :mod:`agents.shared.adapters.gate`, asked over the bus."""

from collections.abc import Sequence
from typing import TypeVar

import anyio
import msgspec

from agents.gates.settings import GatesSettings
from agents.shared.adapters.gate import MAX_WIN_DROP, MIN_ANGLE, GateVerdict, judge_angle
from agents.shared.examination import examine
from agents.shared.retained import RetainedJudgement, RetainedQuestion
from agents.shared.workers import ask_worker, find_workers
from bus.connection import Bus
from bus.metrics import count_degraded
from bus.topology import ADAPTERS
from schemas.adapters import (
    GATES,
    AdapterAngle,
    AdapterJudged,
    AnglesRequest,
    Gate,
    JudgeRequest,
    judgement_of,
)
from schemas.calls import ADAPTERS_ANGLES, ADAPTERS_DISCARD, ADAPTERS_STAGE, Service
from schemas.consolidation import DiscardRequest, StageRequest
from schemas.errors import KikiError, StageFailed
from schemas.findings import AdapterUse

Q = TypeVar("Q", bound=msgspec.Struct | None)
R = TypeVar("R", bound=msgspec.Struct)


class Judging:
    """Judges one adapter at a time. A digest that was judged keeps its verdict."""

    def __init__(self, bus: Bus, settings: GatesSettings, probes: Sequence[RetainedQuestion]) -> None:
        self._bus, self._settings, self._probes = bus, settings, probes
        self._lock = anyio.Lock()

    async def judge(self, request: JudgeRequest) -> tuple[AdapterJudged, bool]:
        """The verdict on the weights of this digest, and whether it is new.

        Raises:
            StageFailed: code ``adapter_failed``: the worker has other weights under that name by now.
            KikiError: the worker or the broker is away; no verdict was reached.
        """
        async with self._lock:
            life = judgement_of(request.sha256, name=request.name)
            earlier = await self._bus.last(AdapterJudged, life.turn_id, stream=ADAPTERS)
            if earlier is not None:
                return earlier, False
            verdict, gates, message = await self._judge_staged(request)
            judged = AdapterJudged(
                envelope=life.next(GATES),
                name=request.name,
                sha256=request.sha256,
                passed=verdict is GateVerdict.PASS,
                gates=tuple(gates),
                message=message,
            )
            await self._bus.publish(judged)
            return judged, True

    async def _judge_staged(self, request: JudgeRequest) -> tuple[GateVerdict, list[Gate], str]:
        """Judge the weights under a name of their own, so that the worker answers with them before they are served."""
        if request.staged:  # at every worker
            return await self._judge_weights(request, request.staged, worker="")
        worker, staged = await self._stage(request)
        try:
            return await self._judge_weights(request, staged, worker=worker)
        finally:
            with anyio.CancelScope(shield=True):
                await self._discard(staged, worker=worker)

    async def _stage(self, request: JudgeRequest) -> tuple[str, str]:
        """Stage the weights that lie under the name, at the first worker that has them. Returns the worker and the
        name of the staged weights.

        Raises:
            StageFailed: code ``adapter_failed`` or ``adapter_not_found``: no worker has them.
            KikiError: a worker is away.
        """
        stage = StageRequest(name=request.name, weights=request.sha256, present=True)
        refusals: list[StageFailed] = []
        for worker in await find_workers(self._bus):
            try:
                return worker, (await self._ask(worker, ADAPTERS_STAGE, stage)).staged
            except StageFailed as error:
                refusals.append(error)
        raise refusals[0]

    async def _ask(self, worker: str, service: Service[Q, R], request: Q) -> R:
        return await ask_worker(self._bus, worker, service, request, timeout=self._settings.worker_timeout)

    async def _judge_weights(
        self, request: JudgeRequest, staged: str, *, worker: str
    ) -> tuple[GateVerdict, list[Gate], str]:
        compare = AnglesRequest(name=staged, apart=request.name)
        reply = await self._ask(worker, ADAPTERS_ANGLES, compare)
        if reply.fault:
            return GateVerdict.HEALTH, [Gate(name="health", passed=False, detail=reply.fault)], reply.fault
        gates = [Gate(name="health", passed=True), _describe_angles(reply.others)]
        use = AdapterUse(name=staged, sha256=request.sha256)
        verdict, message = GateVerdict.PASS, ""
        for other in reply.others:
            if other.angle >= MIN_ANGLE:
                continue
            drop, why = await self._measure_drop(other, use)
            of_other = judge_angle(other.angle, drop)
            gates.append(
                Gate(name="win_rate", passed=of_other is GateVerdict.PASS, value=drop, bound=MAX_WIN_DROP, detail=why)
            )
            if of_other > verdict:
                verdict, message = of_other, _explain(other, drop, why)
        return verdict, gates, message

    async def _measure_drop(self, other: AdapterAngle, use: AdapterUse) -> tuple[float | None, str]:
        """What the other adapter loses of its win rate over the base when the new one stands beside it; None, with
        why, when the worker cannot answer with both.

        Raises:
            KikiError: the worker is away.
        """
        prior = AdapterUse(name=other.name, sha256=other.sha256)
        try:
            base = await self._examine(())
            alone = (await self._examine((prior,))).win_rate_over(base)
            beside = (await self._examine((prior, use))).win_rate_over(base)
        except KikiError as error:
            if error.retryable:
                raise
            count_degraded("gates.win_rate", error.message)
            return None, f"{other.name}: no win rate could be measured: {error.message}"
        return alone - beside, f"{other.name}: {alone:.3f} alone, {beside:.3f} with the new one"

    async def _examine(self, uses: tuple[AdapterUse, ...]) -> RetainedJudgement:
        settings = self._settings
        return await examine(
            self._bus,
            self._probes,
            uses,
            tenant=GATES,
            timeout=settings.judge_timeout,
            at_once=settings.judges,
        )

    async def _discard(self, staged: str, *, worker: str) -> None:
        try:
            await self._ask(worker, ADAPTERS_DISCARD, DiscardRequest(staged=staged))
        except KikiError as error:
            count_degraded("gates.staged", error.message)


def _describe_angles(others: Sequence[AdapterAngle]) -> Gate:
    """The smallest angle of all. It alone refuses nothing: the win rate has the last word."""
    nearest = min(others, key=lambda other: other.angle, default=None)
    if nearest is None:
        return Gate(name="angle", passed=True, bound=MIN_ANGLE, detail="no other adapter is served")
    return Gate(
        name="angle",
        passed=nearest.angle >= MIN_ANGLE,
        value=nearest.angle,
        bound=MIN_ANGLE,
        detail=f"{nearest.name}, {nearest.module or 'no module in common'}",
    )


def _explain(other: AdapterAngle, drop: float | None, why: str) -> str:
    place = f"{other.angle:.1f} degrees from '{other.name}' in {other.module}"
    return f"{place}, and {why}" if drop is None else f"{place}, which loses {drop:.3f} of its win rate with it ({why})"
