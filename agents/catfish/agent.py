"""The catfish as an agent: ``infer.done`` -> ``dissent.raised`` or ``dissent.waived``."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio

from agents.catfish import engagement, prompts
from agents.catfish.settings import CatfishSettings
from agents.shared import agreement, excerpt
from agents.shared.model import Consultation
from agents.shared.similarity import Likeness, answer_texts
from bus import metrics
from bus.agent import Endpoint
from bus.connection import Bus
from bus.handler import Delivery, Handler
from schemas.chat import Usage
from schemas.errors import KikiError, Unavailable
from schemas.events import DissentRaised, DissentWaived, InferDone
from schemas.findings import Dissent
from schemas.status import StatusReply

STAGE = "catfish"

_NO_USAGE = Usage()


class CatfishAgent:
    """Objects before the panel decides, when the question is hard and the candidates agree."""

    name = STAGE

    def __init__(self, settings: CatfishSettings) -> None:
        self._settings = settings
        self._bus: Bus
        self._raised_count = 0
        self._waived_count = 0

    @contextlib.asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        """Keep the bus for :meth:`_publish_waiver`; nothing else to open."""
        self._bus = bus
        yield

    def handlers(self) -> Sequence[Handler[Any]]:
        """Reads ``infer.done`` beside the negotiator."""
        return [
            Handler(
                stage=STAGE,
                event=InferDone,
                handle=self._handle,
                concurrency=self._settings.concurrency,
                fair=True,
                give_up=self._publish_waiver,
            )
        ]

    def endpoints(self) -> Sequence[Endpoint]:
        """None of its own."""
        return ()

    def status(self) -> StatusReply:
        """Always ready: it holds no model."""
        return StatusReply(
            agent=STAGE, ready=True, gauges={"raised": float(self._raised_count), "waived": float(self._waived_count)}
        )

    async def _handle(self, event: InferDone, delivery: Delivery) -> DissentRaised | DissentWaived:
        settings = self._settings
        model = Consultation(delivery.bus, event.envelope, timeout=settings.timeout, reserve=settings.reserve)
        likeness = Likeness(delivery.bus, event.envelope.turn_id, timeout=settings.embed_timeout)
        try:
            with anyio.fail_after(max(0.0, model.seconds_left)):
                dissent = await self._consider(event, model, likeness)
        except TimeoutError:
            dissent = self._waive_for_time("the turn's time is nearly over", usage=model.usage)
        except KikiError as error:
            metrics.count_degraded("catfish.failed", error.message)
            dissent = Dissent(engaged=False, reason=f"could not: {error.message}", usage=model.usage)
        if dissent.engaged:
            self._raised_count += 1
        else:
            self._waived_count += 1
        ahead = likeness.seconds_before(delivery.received_at)
        timing = delivery.timing(STAGE, compute=model.compute + likeness.compute - ahead, ahead=ahead)
        kind = DissentRaised if dissent.engaged else DissentWaived
        return kind(envelope=event.envelope.next(STAGE), dissent=dissent, timings=(*event.timings, timing))

    async def _consider(self, event: InferDone, model: Consultation, likeness: Likeness) -> Dissent:
        settings, route = self._settings, event.route
        if not route.plan.dissent:
            return Dissent(engaged=False, reason="the plan leaves dissent out")
        if event.inference.cut:
            return self._waive_for_time("the turn's time was over before its candidates had ended")
        candidates = event.inference.candidates
        logprobs = [candidate.logprob for candidate in candidates]
        score = engagement.complexity(event.query.text, domains=len(route.domains), logprobs=logprobs)
        why_not = engagement.reason_too_small(event.inference.parameters, settings)
        if why_not := why_not or engagement.reason_to_waive(score, logprobs, settings):
            return Dissent(engaged=False, reason=why_not)
        answers = answer_texts(candidates)
        mean_agreement = agreement.mean(await likeness.compare(answers, question=event.query.text))
        tone = engagement.tone(mean_agreement, settings)
        texts = list(dict.fromkeys(answers))
        messages = prompts.objection(
            excerpt.client_question(event.query.messages, settings.excerpt_chars),
            [excerpt.shortened(text, settings.excerpt_chars) for text in texts[: settings.shown]],
            tone,
        )
        objection = await model.write(messages, max_tokens=settings.max_tokens, seed=event.query.sampling.seed)
        return Dissent(
            engaged=True,
            reason=f"complexity {score:.2f}, agreement {mean_agreement:.2f}",
            text=objection.text.strip(),
            tone=tone,
            agreement=mean_agreement,
            usage=model.usage,
        )

    def _waive_for_time(self, reason: str, *, usage: Usage = _NO_USAGE) -> Dissent:
        metrics.count_degraded("catfish.cut_short", reason)
        return Dissent(engaged=False, reason=reason, usage=usage)

    async def _publish_waiver(self, event: InferDone, error: KikiError) -> None:
        """Tell the negotiator that no objection comes: a failing catfish must not end the turn."""
        metrics.count_degraded("catfish.failed", error.message)
        waiver = DissentWaived(
            envelope=event.envelope.next(STAGE),
            dissent=Dissent(engaged=False, reason=f"could not: {error.message}"),
            timings=event.timings,
        )
        with contextlib.suppress(Unavailable):  # the negotiator stops waiting after dissent_wait
            await self._bus.publish(waiver)
