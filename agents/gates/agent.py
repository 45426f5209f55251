"""The gates as an agent: ``adapter.proposed`` -> ``adapter.judged``, then ``adapter.published`` or ``.rejected``.

What compares weights (numpy) is imported at the first judgement, because the process mostly waits.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import structlog

from agents.gates.settings import GatesSettings
from agents.shared.retained import RetainedQuestion, load_retained_set
from bus.agent import Endpoint
from bus.connection import Bus
from bus.handler import Delivery, Handler
from bus.topology import ADAPTERS
from schemas.adapters import (
    GATES,
    AdapterProposed,
    AdapterPublished,
    AdapterRejected,
    JudgeReply,
    JudgeRequest,
)
from schemas.calls import GATES_JUDGE
from schemas.errors import StageFailed
from schemas.events import Event
from schemas.status import StatusReply

if TYPE_CHECKING:
    from agents.gates.judging import Judging

DREAM = "dream"
"""The origin of proposals whose dream asks for the verdict itself."""

_log = structlog.get_logger("gates")


class GatesAgent:
    """Judges adapters before they are served: health, the angle to every other one, and what they unlearn."""

    name = GATES

    def __init__(self, settings: GatesSettings) -> None:
        self._settings = settings
        self._bus: Bus
        self._probes: tuple[RetainedQuestion, ...] = ()
        self._judging: Judging | None = None
        self._counts = {"passed": 0.0, "refused": 0.0}

    @contextlib.asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        """Read the probes.

        Raises:
            SetupError: they cannot be used.
        """
        self._bus, self._probes = bus, load_retained_set(self._settings.probes).questions
        try:
            yield
        finally:
            self._probes, self._judging = (), None

    def handlers(self) -> Sequence[Handler[Any]]:
        """Reads ``adapter.proposed``, one at a time."""
        return (
            Handler(
                stage=GATES,
                event=AdapterProposed,
                handle=self.handle,
                stream=ADAPTERS,
                concurrency=1,
                until_deadline=False,
                outlasts=True,
            ),
        )

    def endpoints(self) -> Sequence[Endpoint]:
        """Answers ``gates.judge``."""
        return (Endpoint(GATES_JUDGE, self.judge),)

    def status(self) -> StatusReply:
        """Ready once the probes are read."""
        return StatusReply(agent=GATES, ready=bool(self._probes), gauges=dict(self._counts))

    async def judge(self, request: JudgeRequest) -> JudgeReply:
        """The verdict on weights that a worker has.

        Raises:
            StageFailed: code ``adapter_failed``: the worker has other weights under that name by now.
            KikiError: the worker is away.
        """
        if self._judging is None:
            from agents.gates.judging import Judging

            self._judging = Judging(self._bus, self._settings, self._probes)
        verdict, is_new = await self._judging.judge(request)
        if is_new:
            self._counts["passed" if verdict.passed else "refused"] += 1
            log = _log.info if verdict.passed else _log.warning
            log("adapter judged", adapter=request.name, sha256=request.sha256[:12], reason=verdict.message)
        return JudgeReply(passed=verdict.passed, gates=verdict.gates, message=verdict.message)

    async def handle(self, event: AdapterProposed, _: Delivery) -> Event | None:
        """Judge a proposal, and publish or reject it."""
        if event.origin == DREAM:
            return None
        envelope = event.envelope.next(GATES)
        try:
            verdict = await self.judge(JudgeRequest(name=event.name, sha256=event.sha256))
        except StageFailed as error:  # nothing is known of these weights: they may be proposed again
            verdict = JudgeReply(passed=False, message=error.message)
        if verdict.passed:
            return AdapterPublished(
                envelope=envelope, name=event.name, sha256=event.sha256, origin=event.origin, gates=verdict.gates
            )
        return AdapterRejected(
            envelope=envelope,
            name=event.name,
            sha256=event.sha256,
            stage="gates",
            code="adapter_refused",
            message=verdict.message,
            gates=verdict.gates,
        )
