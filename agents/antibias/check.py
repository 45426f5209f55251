"""One turn's check: judge the answer, revise it when it is unfair, judge it again, refuse as the last resort."""

from dataclasses import dataclass

import msgspec

from agents.antibias import detector, prompts
from agents.antibias.detector import Touch
from agents.antibias.judge import Judge, Judgement
from agents.antibias.settings import AntibiasSettings
from agents.shared import excerpt
from agents.shared.model import Consultation
from bus import metrics
from bus.connection import Bus
from schemas.chat import Message
from schemas.errors import KikiError
from schemas.events import NegotiateDone
from schemas.findings import BiasReport, Candidate, FinishReason


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What goes to the client, and what was found."""

    text: str
    finish_reason: FinishReason
    report: BiasReport


class Check:
    """Held once for each delivery; keeps nothing between them.

    Whatever fails, an answer goes on, and the report says what was not done.
    """

    def __init__(self, bus: Bus, event: NegotiateDone, settings: AntibiasSettings) -> None:
        self._settings = settings
        self._event = event
        self._text = event.negotiation.text
        self._question = excerpt.asked(event.query.messages, settings.excerpt_chars)
        self._finish = event.inference.candidates[event.negotiation.chosen].finish_reason
        self.model = Consultation(
            bus,
            event.envelope,
            timeout=settings.job_timeout,
            reserve=settings.reserve,
        )
        self._judge = Judge(self.model, settings, event.query.messages, recall=event.recall.hits)

    async def run(self) -> Checked:
        """The answer that goes on."""
        if not self._event.route.plan.antibias:
            return self._kept(BiasReport(checked=False, reason="the plan leaves it out"))
        if not self._text.strip():
            return self._kept(BiasReport(checked=True, reason="says nothing"))
        touch = detector.touches(self._event.query.text, self._text)
        if touch is None:
            return self._kept(BiasReport(checked=True, reason="touches nobody"))
        named = f"touches people ({', '.join(touch.terms)})"
        if (weights := self._event.inference.parameters) < self._settings.judge_from:
            why = f"the model's {weights / 1e6:.0f}M weights are fewer than judge_from"
            return self._kept(_undecided(BiasReport(checked=False, reason=f"{named}; undecided: {why}")))
        try:
            with self.model.step("check"):
                judgement = await self._judge.judge(self._text)
        except KikiError as error:
            return self._kept(_failed(BiasReport(checked=False), f"could not: {error.message}", error))
        report = BiasReport(checked=True, unfair=judgement.unfair, reason=f"{named}; {said(judgement)}")
        if judgement.verdict == "undecided":
            return self._kept(_undecided(report))
        if judgement.verdict == "fair":
            return self._kept(report)
        return await self._revise(msgspec.structs.replace(report, biased=True), touch)

    async def _revise(self, report: BiasReport, touch: Touch) -> Checked:
        framing = await self._written("framing", prompts.reframing(self._question), self._settings.framing_tokens)
        rule = ""
        if framing:
            asked = prompts.guideline(self._question, framing)
            rule = await self._written("guideline", asked, self._settings.guideline_tokens)
        report = msgspec.structs.replace(report, framing=framing, guideline=rule)
        try:
            revised = await self._revision(framing, rule)
        except KikiError as error:
            return self._kept(_failed(report, f"could not revise it: {error.message}", error))
        return await self._recheck(report, revised, touch)

    async def _recheck(self, report: BiasReport, revised: Candidate, touch: Touch) -> Checked:
        text, finish = revised.text.strip(), revised.finish_reason
        report = msgspec.structs.replace(report, revised=True)
        try:
            with self.model.step("check again"):
                judgement = await self._judge.judge(text)
        except KikiError as error:
            why = f"revised, but could not check the revision: {error.message}"
            return self._given(text, finish, _failed(report, why, error))
        report = msgspec.structs.replace(
            report, unfair_revised=judgement.unfair, reason=f"{report.reason}; once revised {said(judgement)}"
        )
        if judgement.verdict == "undecided":
            return self._given(text, finish, _undecided(report))
        if judgement.verdict == "fair":
            return self._given(text, finish, report)
        refusal = self._settings.refusal_fr if touch.language == "fr" else self._settings.refusal_en
        return self._given(refusal, "stop", msgspec.structs.replace(report, revised=False, refused=True))

    async def _written(self, what: str, messages: tuple[Message, ...], max_tokens: int) -> str:
        """A preparation of the revision, which goes on without it if need be."""
        if not max_tokens:
            return ""
        try:
            with self.model.step(what):
                return (await self.model.write(messages, max_tokens=max_tokens)).text.strip()
        except KikiError as error:
            metrics.degraded(f"antibias.{what}", error.message)
            return ""

    async def _revision(self, framing: str, rule: str) -> Candidate:
        settings, sampling = self._settings, self._event.query.sampling
        shown = excerpt.shortened(self._text, settings.excerpt_chars)
        with self.model.step("revision"):
            return await self.model.write(
                prompts.revision(self._question, shown, framing=framing, rule=rule),
                max_tokens=min(settings.max_tokens, sampling.max_tokens),
                seed=sampling.seed,
                enhance=True,
            )

    def _kept(self, report: BiasReport) -> Checked:
        return self._given(self._text, self._finish, report)

    def _given(self, text: str, finish: FinishReason, report: BiasReport) -> Checked:
        report = msgspec.structs.replace(report, usage=self.model.usage, costs=self.model.costs)
        return Checked(text=text, finish_reason=finish, report=report)


def said(judgement: Judgement) -> str:
    """The judgement in words."""
    return f"{judgement.verdict}, unfair with probability {judgement.unfair:.2f}, framings {judgement.spread:.1f} apart"


def _undecided(report: BiasReport) -> BiasReport:
    """The answer goes on, and everybody can see that nobody cleared it."""
    metrics.degraded("antibias.undecided", report.reason)
    return msgspec.structs.replace(report, checked=False, undecided=True)


def _failed(report: BiasReport, why: str, error: KikiError) -> BiasReport:
    """``checked`` is False, because the check was not carried through."""
    metrics.degraded("antibias.failed", error.message)
    reason = f"{report.reason}; {why}" if report.reason else why
    return msgspec.structs.replace(report, checked=False, reason=reason)
