"""Decides whether the catfish objects, and in which tone (arXiv 2505.21503). Pure.

The paper engages by the difficulty of the case, and sets the tone by the panel's agreement: the more it agrees, the
firmer the objection. The measure of difficulty is this project's: four features, each scaled to
0..1, weighted and summed. All numbers here were chosen by this project.
"""

import re
from collections.abc import Sequence
from typing import Literal

from agents.catfish.settings import CatfishSettings

Tone = Literal["mild", "firm", "strong"]

WORDS_FULL = 60
"""Words at which a question counts as long."""

CLAUSES_FULL = 6
"""Clauses and constraints at which a question counts as involved."""

DOMAINS_FULL = 3
"""Routed domains at which a question counts as interdisciplinary."""

LOGPROB_FULL = 1.5
"""Negated mean natural-log probability per token at which the answerer counts as unsure."""

WEIGHTS = {"length": 0.3, "clauses": 0.3, "domains": 0.15, "doubt": 0.25}
"""Shares of the features in the score; they sum to 1."""

_CLAUSE = re.compile(
    r"[;:?\n]|,\s|\b(?:and|but|or|if|when|while|unless|without|because|although|must|only|at least|at most|"
    r"et|mais|ou|si|quand|lorsque|sans|sauf|parce que|bien que|doit|seulement|au moins|au plus)\b",
    re.IGNORECASE,
)


def complexity(question: str, *, domains: int, logprobs: Sequence[float]) -> float:
    """How hard a question looks, 0..1.

    Args:
        question: the user's last message.
        domains: routed domains.
        logprobs: mean natural-log probability per token of each candidate.
    """
    doubt = -sum(logprobs) / len(logprobs) if logprobs else 0.0
    features = {
        "length": len(question.split()) / WORDS_FULL,
        "clauses": len(_CLAUSE.findall(question.strip().rstrip("?"))) / CLAUSES_FULL,
        "domains": max(0, domains - 1) / (DOMAINS_FULL - 1),
        "doubt": doubt / LOGPROB_FULL,
    }
    return sum(WEIGHTS[name] * min(1.0, max(0.0, value)) for name, value in features.items())


def tone(agreement: float, settings: CatfishSettings) -> Tone:
    """The tone of the objection: the more the candidates agree, the firmer."""
    if agreement >= settings.strong_agreement:
        return "strong"
    return "firm" if agreement >= settings.firm_agreement else "mild"


def reason_too_small(parameters: int, settings: CatfishSettings) -> str | None:
    """Why a model of ``parameters`` weights does not object (its objections do not help); None when it may object."""
    if parameters >= settings.engage_from:
        return None
    size, from_ = (f"{weights / 1e6:.0f}M" for weights in (parameters, settings.engage_from))
    return f"the model is small ({size} weights, engages from {from_})"


def reason_to_waive(score: float, logprobs: Sequence[float], settings: CatfishSettings) -> str | None:
    """Why the catfish does not object, known before the candidates are compared; None when it may object.

    Args:
        score: the question's :func:`complexity`.
        logprobs: mean natural-log probability per token of each candidate.
    """
    if score < settings.complexity:
        return f"the question is simple (complexity {score:.2f}, engages from {settings.complexity:.2f})"
    if len(logprobs) == 1 and logprobs[0] >= settings.confident_logprob:
        return (
            f"one confident candidate (mean log-probability {logprobs[0]:.2f}, "
            f"left alone from {settings.confident_logprob:.2f})"
        )
    return None
