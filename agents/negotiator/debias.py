"""Finds biases of a judge that compares two answers (RBD, arXiv 2505.17100). Pure.

The paper trains a model that reads a judgement and reasons about its bias. Here each bias is tested: the comparison is
repeated without the suspected cause, and when the preference turns, the cause had decided it. The judge reads which
biases were found before it decides again.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agents.shared import excerpt
from schemas.findings import Bias, BiasFinding

_FEELING = re.compile(
    r"\b(?:great|wonderful|amazing|excellent|perfect|beautiful|fantastic|love|happy|glad|delighted|exciting|sadly|"
    r"unfortunately|terrible|awful|horrible|sorry|afraid|hate|worried|definitely|absolutely|certainly|clearly|obviously|"
    r"of course|without (?:a )?doubt|hélas|malheureusement|heureusement|génial|magnifique|terrible|désolé|"
    r"évidemment|absolument)\b[,!]?\s?|!",
    re.IGNORECASE,
)


LONG = 80
"""Characters below which the length of the longer answer is not suspected; chosen by this project."""


@dataclass(frozen=True, kw_only=True)
class JudgedPair:
    """The two answers of a comparison, and the summary of the votes on each that the judge reads, if any."""

    first: str
    second: str
    votes: tuple[str, str] | None = None

    @property
    def swapped(self) -> "JudgedPair":
        """The other order."""
        votes = (self.votes[1], self.votes[0]) if self.votes else None
        return JudgedPair(first=self.second, second=self.first, votes=votes)


@dataclass(frozen=True, kw_only=True)
class Lean:
    """log P(first) - log P(second) in nats, with the first answer shown first (``lean``), and second
    (``swapped``)."""

    lean: float
    swapped: float

    @property
    def both(self) -> float:
        """The mean over both orders, which cancels a preference for one letter."""
        return (self.lean + self.swapped) / 2

    @property
    def steady(self) -> bool:
        """Whether both orders prefer the same answer."""
        return self.lean * self.swapped > 0


def pairs_without_causes(pair: JudgedPair, *, verbosity_ratio: float, sentiment_terms: int) -> dict[Bias, JudgedPair]:
    """The pair without each cause that may bias the judge, by bias; only for causes that this pair has."""
    variants: dict[Bias, JudgedPair] = {}
    short, long = sorted((len(pair.first), len(pair.second)))
    if long >= max(LONG, verbosity_ratio * short):
        first, second = excerpt.shortened(pair.first, short), excerpt.shortened(pair.second, short)
        variants["verbosity"] = JudgedPair(first=first, second=second, votes=pair.votes)
    if pair.votes:
        variants["bandwagon"] = JudgedPair(first=pair.first, second=pair.second)
    if abs(count_feelings(pair.first) - count_feelings(pair.second)) >= sentiment_terms:
        variants["sentiment"] = JudgedPair(
            first=without_feelings(pair.first), second=without_feelings(pair.second), votes=pair.votes
        )
    return variants


def count_feelings(text: str) -> int:
    """Words and marks of feeling or insistence."""
    return len(_FEELING.findall(text))


def without_feelings(text: str) -> str:
    """The text without words and marks of feeling; the text itself when nothing else would
    be left."""
    return _FEELING.sub("", text).strip() or text


def findings(plain: Lean, leans: Mapping[Bias, Lean]) -> tuple[BiasFinding, ...]:
    """The biases that decided the comparison."""
    bias_findings = []
    if not plain.steady:
        evidence = f"it leans by {plain.lean:+.2f} nats in one order and {plain.swapped:+.2f} in the other"
        bias_findings.append(BiasFinding(bias="position", evidence=evidence))
    for bias, lean in leans.items():
        if plain.both * lean.both < 0:
            evidence = f"it leans by {plain.both:+.2f} nats, and by {lean.both:+.2f} without {_CAUSES[bias]}"
            bias_findings.append(BiasFinding(bias=bias, evidence=evidence))
    return tuple(bias_findings)


_CAUSES: dict[Bias, str] = {
    "position": "the order",
    "verbosity": "the difference in length",
    "bandwagon": "the votes",
    "sentiment": "the words of feeling",
}
_ADVICE: dict[Bias, str] = {
    "position": "The order of the answers decided. Read both before you choose.",
    "verbosity": "The longer answer was preferred for its length. Judge what is said, not how much.",
    "bandwagon": "The votes of others decided. Judge for yourself.",
    "sentiment": "The tone decided. Judge the facts, not the feeling or the confidence.",
}


def analysis(bias_findings: Sequence[BiasFinding]) -> str:
    """What the judge reads before it decides again."""
    return "\n".join(_ADVICE[finding.bias] for finding in bias_findings)
