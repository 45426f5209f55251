"""One turn's check: judge the answer, revise it when it is unfair, judge it again, refuse as the last resort."""

import math
from dataclasses import dataclass

from agents import excerpt
from agents.antibias import detector, prompts
from agents.antibias.lexicon import Language
from agents.antibias.settings import AntibiasSettings
from agents.calibration import Priors, calibrated
from agents.consultation import Consultation
from bus import metrics
from bus.connection import Bus
from schemas.errors import KikiError
from schemas.events import NegotiateDone
from schemas.stages import BiasReport, FinishReason

LABELS = ("YES", "NO")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What goes to the client, and what was found."""

    text: str
    finish_reason: FinishReason
    report: BiasReport


class Check:
    """Held once for each delivery; keeps nothing between them but the label prior."""

    def __init__(self, bus: Bus, event: NegotiateDone, settings: AntibiasSettings, priors: Priors) -> None:
        self._settings = settings
        self._priors = priors
        self._event = event
        self._text = event.negotiation.text
        self._question = excerpt.asked(event.query.messages, settings.excerpt_chars)
        self._finish = event.inference.candidates[event.negotiation.chosen].finish_reason
        self.model = Consultation(
            bus,
            event.envelope,
            timeout=settings.job_timeout,
            reserve=settings.reserve,
            model_digest=event.inference.model_digest,
        )

    async def run(self) -> Checked:
        """Whatever fails, an answer goes on, and the report says what was not done."""
        if not self._event.route.plan.antibias:
            return self._passed(checked=False, reason="the plan leaves it out")
        touch = detector.touches(self._event.query.text, self._text)
        if touch is None:
            return self._passed(checked=True, reason="touches nobody")
        named = f"touches people ({', '.join(touch.terms)})"
        try:
            unfair = await self._unfair(self._text)
        except KikiError as error:
            return self._failed(f"could not: {error.message}", error)
        if unfair < self._settings.threshold:
            return self._passed(checked=True, reason=f"{named}; unfair with probability {unfair:.2f}")
        return await self._revise(f"{named}; unfair with probability {unfair:.2f}", touch.language)

    async def _revise(self, found: str, language: Language) -> Checked:
        settings = self._settings
        messages = prompts.revision(self._question, excerpt.shortened(self._text, settings.excerpt_chars))
        sampling = self._event.query.sampling
        try:
            revised = await self.model.write(
                messages, max_tokens=min(settings.max_tokens, sampling.max_tokens), seed=sampling.seed
            )
        except KikiError as error:
            return self._failed(f"{found}; could not revise it: {error.message}", error, biased=True)
        text, finish = revised.text.strip(), revised.finish_reason
        try:
            unfair = await self._unfair(text)
        except KikiError as error:
            reason = f"{found}; revised, but could not check the revision: {error.message}"
            return self._failed(reason, error, biased=True, revised=text, finish=finish)
        reason = f"{found}; {unfair:.2f} once revised"
        if unfair >= settings.threshold:
            refusal = settings.refusal_fr if language == "fr" else settings.refusal_en
            return Checked(text=refusal, finish_reason="stop", report=self._report(reason, refused=True))
        return Checked(text=text, finish_reason=finish, report=self._report(reason, revised=True))

    async def _unfair(self, text: str) -> float:
        """Calibrated probability that ``text`` treats a group unfairly."""
        prior = await self.model.prior(prompts.blank_check(), LABELS, known=self._priors)
        shown = excerpt.shortened(text, self._settings.excerpt_chars)
        scores = await self.model.score(prompts.check(self._question, shown), LABELS)
        return math.exp(calibrated(scores, prior)["YES"])

    def _passed(self, *, checked: bool, reason: str) -> Checked:
        report = BiasReport(checked=checked, reason=reason, usage=self.model.usage)
        return Checked(text=self._text, finish_reason=self._finish, report=report)

    def _report(self, reason: str, *, revised: bool = False, refused: bool = False) -> BiasReport:
        return BiasReport(
            checked=True, biased=True, revised=revised, refused=refused, reason=reason, usage=self.model.usage
        )

    def _failed(
        self,
        reason: str,
        error: KikiError,
        *,
        biased: bool = False,
        revised: str | None = None,
        finish: FinishReason = "stop",
    ) -> Checked:
        """The answer as far as it came; ``checked`` is False, because the check was not carried through."""
        metrics.degraded("antibias.failed", error.message)
        report = BiasReport(
            checked=False, biased=biased, revised=revised is not None, reason=reason, usage=self.model.usage
        )
        if revised is None:
            return Checked(text=self._text, finish_reason=self._finish, report=report)
        return Checked(text=revised, finish_reason=finish, report=report)
