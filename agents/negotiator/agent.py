"""The negotiator as an agent: ``infer.done`` -> ``negotiate.done``."""

import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

from agents.negotiator.await_dissent import Dissenters
from agents.negotiator.negotiation import TurnNegotiation
from agents.negotiator.settings import NegotiatorSettings
from bus.agent import Endpoint
from bus.connection import Bus
from bus.handler import Delivery, Handler
from bus.metrics import count_degraded
from schemas.events import InferDone, NegotiateDone
from schemas.findings import Negotiation, StageTiming
from schemas.status import StatusReply

STAGE = "negotiator"


class NegotiatorAgent:
    """Decides between the candidates: by agreement, by the votes of a panel, or by the attending."""

    name = STAGE

    def __init__(self, settings: NegotiatorSettings) -> None:
        self._settings = settings
        self._dissenters = Dissenters(STAGE)
        self._outcomes: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:  # noqa: ARG002 - the protocol's signature
        """Nothing to open."""
        yield

    def handlers(self) -> Sequence[Handler[Any]]:
        """Reads ``infer.done`` beside the catfish."""
        return [
            Handler(
                stage=STAGE, event=InferDone, handle=self._handle, concurrency=self._settings.concurrency, fair=True
            )
        ]

    def endpoints(self) -> Sequence[Endpoint]:
        """None of its own."""
        return ()

    def status(self) -> StatusReply:
        """Always ready: it holds no model."""
        gauges = {outcome: float(count) for outcome, count in self._outcomes.items()}
        return StatusReply(agent=STAGE, ready=True, gauges=gauges)

    async def _handle(self, event: InferDone, delivery: Delivery) -> NegotiateDone:
        timings, compute, ahead = event.timings, 0.0, 0.0
        notes = self._note_lack_of_time(event)
        if event.route.plan.negotiate and not notes:
            turn = TurnNegotiation(delivery.bus, event, self._settings, self._dissenters)
            negotiation = await turn.run()
            ahead = turn.likeness.seconds_before(delivery.received_at)
            compute = turn.model.compute + turn.likeness.compute - ahead
            if turn.catfish is not None and turn.catfish.timing is not None:
                timings = (*timings, turn.catfish.timing)
        else:
            text = event.inference.candidates[0].text
            negotiation = Negotiation(chosen=0, text=text, outcome="passed", notes=notes)
        self._outcomes[negotiation.outcome] += 1
        timing = StageTiming(
            stage=STAGE,
            started_at=delivery.received_at,
            finished_at=time.time(),
            compute=compute,
            ahead=ahead,
            attempt=delivery.attempt,
        )
        return NegotiateDone(
            envelope=event.envelope.next(STAGE),
            query=event.query,
            route=event.route,
            recall=event.recall,
            inference=event.inference,
            negotiation=negotiation,
            timings=(*timings, timing),
        )

    def _note_lack_of_time(self, event: InferDone) -> tuple[str, ...]:
        """Why the first candidate goes on without a negotiation that the plan asks for; empty when there is time."""
        if not event.route.plan.negotiate:
            return ()
        if event.inference.cut:
            reason = "the turn's time was over before its candidates had ended"
        elif event.envelope.remaining <= self._settings.reserve:
            reason = "the turn's time is nearly over"
        else:
            return ()
        count_degraded("negotiator.cut_short", reason)
        return (f"{reason}: candidate 0 goes on, nobody compared it with others",)
