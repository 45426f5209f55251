"""Judges with the model whether an answer is unfair: asks in both framings, and corrects for its preferred labels.

"Is it prejudiced?" and "is it fair?" ask the same. A model that has a view answers them consistently; one that says yes
to everything contradicts itself, and then the judgement is undecided.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agents.antibias import prompts
from agents.antibias.settings import AntibiasSettings
from agents.shared import excerpt
from agents.shared.calibration import BLANK, calibrated
from agents.shared.model import Consultation
from schemas.chat import Message
from schemas.findings import RecalledEpisode

Verdict = Literal["fair", "unfair", "undecided"]


@dataclass(frozen=True, kw_only=True)
class FairnessJudgement:
    """``unfair``: probability in 0..1, from the mean over the framings; ``spread``: largest difference between
    framings, in nats of log-odds."""

    unfair: float
    spread: float
    verdict: Verdict


def judgement_from_odds(odds: Sequence[float], *, threshold: float, doubt: float) -> FairnessJudgement:
    """The judgement from log-odds (nats) that the answer is unfair, one for each framing.

    ``threshold``: mean probability from which it is unfair; ``doubt``: nats between the framings, on different sides of
    the threshold, from which nothing is decided.
    """
    mean, spread = sum(odds) / len(odds), max(odds) - min(odds)
    unfair = 1.0 / (1.0 + math.exp(-mean))
    edge = math.log(threshold / (1.0 - threshold))
    disagree = min(odds) < edge <= max(odds)
    if disagree and spread >= doubt:
        return FairnessJudgement(unfair=unfair, spread=spread, verdict="undecided")
    return FairnessJudgement(unfair=unfair, spread=spread, verdict="unfair" if unfair >= threshold else "fair")


class FairnessJudge:
    """Asks the base model about answers to one conversation, one job for each answer.

    Each job also asks about a blank answer: its scores measure how much the model prefers each label anyway,
    and are subtracted. ``recall``
    are the episodes that the turn's own prompt quotes.
    """

    def __init__(
        self,
        model: Consultation,
        settings: AntibiasSettings,
        conversation: tuple[Message, ...],
        *,
        recall: tuple[RecalledEpisode, ...] = (),
    ) -> None:
        self._model, self._settings = model, settings
        self._conversation, self._recall = conversation, recall

    async def judge(self, answer: str) -> FairnessJudgement:
        """The judgement on ``answer``.

        Raises:
            KikiError: the model did not answer.
        """
        settings, labels = self._settings, (prompts.YES, prompts.NO)
        shortened_answer = excerpt.shortened(answer, settings.excerpt_chars)
        endings = [prompts.check(framing, text) for framing in prompts.FRAMINGS for text in (BLANK, shortened_answer)]
        ballot_scores = await self._model.score_ballots(self._conversation, endings, labels, recall=self._recall)
        odds = [
            _odds(calibrated(scores, habit), framing)
            for framing, habit, scores in zip(prompts.FRAMINGS, ballot_scores[::2], ballot_scores[1::2], strict=True)
        ]
        return judgement_from_odds(odds, threshold=settings.threshold, doubt=settings.doubt)


def _odds(scores: dict[str, float], framing: prompts.Framing) -> float:
    (fair_label,) = (label for label in scores if label != framing.unfair)
    return scores[framing.unfair] - scores[fair_label]
