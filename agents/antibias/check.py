"""Checks one turn: judges the answer, revises an unfair one, judges the revision, and refuses as the last resort."""

from dataclasses import dataclass

import msgspec

from agents.antibias import detector, prompts
from agents.antibias.detector import Touch
from agents.antibias.judge import FairnessJudge, FairnessJudgement
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
class CheckedAnswer:
    """The answer that goes to the client, and the report of its check."""

    text: str
    finish_reason: FinishReason
    report: BiasReport


class FairnessCheck:
    """The check of one delivered turn.

    Whatever fails, there is an answer, and the report says what was not done.
    """

    def __init__(self, bus: Bus, event: NegotiateDone, settings: AntibiasSettings) -> None:
        self._settings = settings
        self._event = event
        self._text = event.negotiation.text
        self._question = excerpt.client_question(event.query.messages, settings.excerpt_chars)
        self._finish_reason = event.inference.candidates[event.negotiation.chosen].finish_reason
        self.model = Consultation(
            bus,
            event.envelope,
            timeout=settings.job_timeout,
            reserve=settings.reserve,
        )
        self._judge = FairnessJudge(self.model, settings, event.query.messages, recall=event.recall.hits)

    async def run(self) -> CheckedAnswer:
        """The answer for the client: as it was, revised, or a refusal."""
        if not self._event.route.plan.antibias:
            return self._keep_original(BiasReport(checked=False, reason="the plan leaves it out"))
        if not self._text.strip():
            return self._keep_original(BiasReport(checked=True, reason="says nothing"))
        touch = detector.find_touch(self._event.query.text, self._text)
        if touch is None:
            return self._keep_original(BiasReport(checked=True, reason="touches nobody"))
        topic = f"touches people ({', '.join(touch.terms)})"
        if (weights := self._event.inference.parameters) < self._settings.judge_from:
            why = f"the model's {weights / 1e6:.0f}M weights are fewer than judge_from"
            return self._keep_original(_mark_undecided(BiasReport(checked=False, reason=f"{topic}; undecided: {why}")))
        if self._event.inference.cut or self.model.seconds_left <= 0:
            reason = f"{topic}; not checked: the turn's time was over"
            metrics.count_degraded("antibias.cut_short", reason)
            return self._keep_original(BiasReport(checked=False, reason=reason))
        try:
            with self.model.step("check"):
                judgement = await self._judge.judge(self._text)
        except KikiError as error:
            return self._keep_original(_mark_failed(BiasReport(checked=False), f"could not: {error.message}", error))
        report = BiasReport(checked=True, unfair=judgement.unfair, reason=f"{topic}; {describe(judgement)}")
        if judgement.verdict == "undecided":
            return self._keep_original(_mark_undecided(report))
        if judgement.verdict == "fair":
            return self._keep_original(report)
        return await self._revise(msgspec.structs.replace(report, biased=True), touch)

    async def _revise(self, report: BiasReport, touch: Touch) -> CheckedAnswer:
        framing = await self._write("framing", prompts.reframing(self._question), self._settings.framing_tokens)
        rule = ""
        if framing:
            messages = prompts.guideline(self._question, framing)
            rule = await self._write("guideline", messages, self._settings.guideline_tokens)
        report = msgspec.structs.replace(report, framing=framing, guideline=rule)
        try:
            revision = await self._write_revision(framing, rule)
        except KikiError as error:
            return self._keep_original(_mark_failed(report, f"could not revise it: {error.message}", error))
        return await self._recheck(report, revision, touch)

    async def _recheck(self, report: BiasReport, revision: Candidate, touch: Touch) -> CheckedAnswer:
        text, finish = revision.text.strip(), revision.finish_reason
        report = msgspec.structs.replace(report, revised=True, tokens=revision.usage.completion_tokens)
        try:
            with self.model.step("check again"):
                judgement = await self._judge.judge(text)
        except KikiError as error:
            why = f"revised, but could not check the revision: {error.message}"
            return self._result(text, finish, _mark_failed(report, why, error))
        report = msgspec.structs.replace(
            report, unfair_revised=judgement.unfair, reason=f"{report.reason}; once revised {describe(judgement)}"
        )
        if judgement.verdict == "undecided":
            return self._result(text, finish, _mark_undecided(report))
        if judgement.verdict == "fair":
            return self._result(text, finish, report)
        refusal = self._settings.refusal_fr if touch.language == "fr" else self._settings.refusal_en
        return self._result(refusal, "stop", msgspec.structs.replace(report, revised=False, refused=True, tokens=0))

    async def _write(self, step: str, messages: tuple[Message, ...], max_tokens: int) -> str:
        """Write a text that prepares the revision; empty when that fails, because the revision can do without it."""
        if not max_tokens:
            return ""
        try:
            with self.model.step(step):
                return (await self.model.write(messages, max_tokens=max_tokens)).text.strip()
        except KikiError as error:
            metrics.count_degraded(f"antibias.{step}", error.message)
            return ""

    async def _write_revision(self, framing: str, rule: str) -> Candidate:
        settings, sampling = self._settings, self._event.query.sampling
        answer = excerpt.shortened(self._text, settings.excerpt_chars)
        with self.model.step("revision"):
            return await self.model.write(
                prompts.revision(self._question, answer, framing=framing, rule=rule),
                max_tokens=min(settings.max_tokens, sampling.max_tokens),
                seed=sampling.seed,
                enhance=True,
            )

    def _keep_original(self, report: BiasReport) -> CheckedAnswer:
        return self._result(self._text, self._finish_reason, report)

    def _result(self, text: str, finish: FinishReason, report: BiasReport) -> CheckedAnswer:
        report = msgspec.structs.replace(report, usage=self.model.usage, costs=self.model.costs)
        return CheckedAnswer(text=text, finish_reason=finish, report=report)


def describe(judgement: FairnessJudgement) -> str:
    """The judgement in words."""
    return f"{judgement.verdict}, unfair with probability {judgement.unfair:.2f}, framings {judgement.spread:.1f} apart"


def _mark_undecided(report: BiasReport) -> BiasReport:
    """Mark and count a report whose check did not clear the answer, which goes to the client all the same."""
    metrics.count_degraded("antibias.undecided", report.reason)
    return msgspec.structs.replace(report, checked=False, undecided=True)


def _mark_failed(report: BiasReport, why: str, error: KikiError) -> BiasReport:
    """Mark and count a report whose check was not finished: ``checked`` is False."""
    metrics.count_degraded("antibias.failed", error.message)
    reason = f"{report.reason}; {why}" if report.reason else why
    return msgspec.structs.replace(report, checked=False, reason=reason)
