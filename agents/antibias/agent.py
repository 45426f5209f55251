"""Antibias as an agent: ``negotiate.done`` -> ``answer.ready``."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

from agents.antibias.check import FairnessCheck
from agents.antibias.settings import AntibiasSettings
from bus.agent import Endpoint
from bus.connection import Bus
from bus.handler import Delivery, Handler
from schemas.chat import Usage
from schemas.events import AnswerReady, NegotiateDone
from schemas.findings import BiasReport
from schemas.status import StatusReply

STAGE = "antibias"


class AntibiasAgent:
    """Checks answers that concern people, and revises or refuses unfair ones."""

    name = STAGE

    def __init__(self, settings: AntibiasSettings) -> None:
        self._settings = settings
        self._counts: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:  # noqa: ARG002 - the protocol's signature
        """Nothing to open."""
        yield

    def handlers(self) -> Sequence[Handler[Any]]:
        """Reads ``negotiate.done``."""
        return [
            Handler(
                stage=STAGE, event=NegotiateDone, handle=self._handle, concurrency=self._settings.concurrency, fair=True
            )
        ]

    def endpoints(self) -> Sequence[Endpoint]:
        """None of its own."""
        return ()

    def status(self) -> StatusReply:
        """Always ready: it holds no model."""
        return StatusReply(agent=STAGE, ready=True, gauges={name: float(n) for name, n in self._counts.items()})

    async def _handle(self, event: NegotiateDone, delivery: Delivery) -> AnswerReady:
        check = FairnessCheck(delivery.bus, event, self._settings)
        result = await check.run()
        self._count(result.report)
        timing = delivery.timing(STAGE, compute=check.model.compute)
        return AnswerReady(
            envelope=event.envelope.next(STAGE),
            query=event.query,
            route=event.route,
            recall=event.recall,
            inference=event.inference,
            negotiation=event.negotiation,
            bias=result.report,
            text=result.text,
            finish_reason=result.finish_reason,
            usage=total_usage(event, result.report),
            timings=(*event.timings, timing),
        )

    def _count(self, report: BiasReport) -> None:
        for name in ("checked", "biased", "revised", "refused", "undecided"):
            self._counts[name] += bool(getattr(report, name))


def total_usage(event: NegotiateDone, report: BiasReport) -> Usage:
    """All tokens of the turn: candidates, votes, dissent and the check."""
    dissent = event.negotiation.dissent
    return event.inference.usage + event.negotiation.usage + report.usage + (dissent.usage if dissent else Usage())
