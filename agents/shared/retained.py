"""The retained set: questions with choices of no domain in particular, which no adapter may unlearn.

A dream asks them on the bus (invariant S1), the forgetting gate offline.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.errors import SetupError


class RetainedQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of the set; ``answer`` is the index of the right one of ``choices``."""

    question: Annotated[str, Meta(min_length=1)]
    choices: Annotated[tuple[str, ...], Meta(min_length=2, max_length=8)]
    answer: Annotated[int, Meta(ge=0)]


@dataclass(frozen=True)
class RetainedSet:
    """Questions, and the digest of the file that they come from."""

    questions: tuple[RetainedQuestion, ...]
    sha256: str


@dataclass(frozen=True)
class RetainedJudgement:
    """For each question: whether the right choice is the likeliest, and its log-probability among the choices."""

    right: tuple[bool, ...]
    logprobs: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """The share of questions answered right."""
        return sum(self.right) / len(self.right)

    def win_rate_over(self, baseline: "RetainedJudgement") -> float:
        """The share of questions whose right choice is likelier here than in ``baseline``; ties count half."""
        points = [0.5 if a == b else float(a > b) for a, b in zip(self.logprobs, baseline.logprobs, strict=True)]
        return sum(points) / len(points)


def load_retained_set(path: Path | None) -> RetainedSet:
    """The set in a JSONL file; None reads the one that is shipped.

    Raises:
        SetupError: it is missing, empty, or a line is not a question.
    """
    try:
        data = (path or files("configs").joinpath("dream/retained.jsonl")).read_bytes()
        questions = msgspec.json.Decoder(RetainedQuestion).decode_lines(data)
    except (OSError, msgspec.DecodeError) as error:
        raise SetupError(f"the retained set {path} cannot be read: {error}.", param="agents.dream.retained") from error
    wrong = next((question.question for question in questions if question.answer >= len(question.choices)), None)
    if wrong is not None or not questions:
        why = f"'{wrong}' has an answer that is not the index of a choice" if wrong is not None else "it is empty"
        raise SetupError(f"the retained set {path}: {why}.", param="agents.dream.retained")
    return RetainedSet(tuple(questions), hashlib.sha256(data).hexdigest())


def judgement_from_scores(
    questions: Sequence[RetainedQuestion], logprobs: Sequence[dict[str, float]]
) -> RetainedJudgement:
    """The judgement from each question's total log-probabilities by choice."""
    right, choice_logprobs = [], []
    for question, scores in zip(questions, logprobs, strict=True):
        right_score = scores[question.choices[question.answer]]
        right.append(right_score >= max(scores.values()))
        best = max(scores.values())
        choice_logprobs.append(right_score - best - math.log(sum(math.exp(score - best) for score in scores.values())))
    return RetainedJudgement(tuple(right), tuple(choice_logprobs))
