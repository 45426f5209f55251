"""Whether a model can judge: a right and a wrong answer, ranked by its votes, its comparisons and its likelihood."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import msgspec

from agents.negotiator import prompts
from agents.shared.calibration import BLANK, calibrated
from bus.connection import Bus
from bus.jobs import ask_model
from runtime.cognition import wilson_interval
from schemas.chat import Message
from schemas.envelope import new_turn

TIMEOUT = 120.0
"""Seconds that one request to the worker may take."""


class AnswerPair(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of ``configs/cognition/pairs.jsonl``; ``also`` says the same as ``right`` in other words."""

    question: str
    right: str
    wrong: str
    also: str | None = None


@cache
def pairs() -> tuple[AnswerPair, ...]:
    """All answer pairs."""
    lines = files("configs").joinpath("cognition/pairs.jsonl").read_bytes().splitlines()
    return tuple(msgspec.json.decode(line, type=AnswerPair) for line in lines)


@dataclass(frozen=True)
class VotingFigures:
    """One pair: how far each way of judging prefers the right answer, in nats; ``steady``: in both orders."""

    votes: float
    kept_right: bool
    refused_wrong: bool
    comparison: float
    steady: bool
    likelihood: float


async def judge(bus: Bus, pair: AnswerPair) -> VotingFigures:
    """Ask the worker about one pair, as the negotiator does.

    Raises:
        KikiError: it refuses or does not answer.
    """
    question = (Message(role="user", content=pair.question),)
    ballots = tuple(prompts.ballot(answer, objection=None) for answer in (BLANK, pair.right, pair.wrong))
    labels = tuple(prompts.VOTE_WORDS.values())
    orders = tuple(
        prompts.comparison(first, second, objection=None, votes=None, analysis="")
        for first, second in ((pair.right, pair.wrong), (pair.wrong, pair.right))
    )

    async def score_choices(
        choices: tuple[str, ...], conversations: tuple[tuple[Message, ...], ...] = ()
    ) -> list[dict[str, float]]:
        envelope = new_turn(tenant="bench", timeout=TIMEOUT)
        result = await ask_model(
            bus, envelope, lane="auxiliary", messages=question, ballots=conversations, choices=choices
        )
        return list(result.scores)

    habit, right, wrong = await score_choices(labels, ballots)
    supports = [_support(calibrated(row, habit)) for row in (right, wrong)]
    forward, backward = await score_choices(prompts.LETTERS, orders)
    lean, swapped_lean = forward["A"] - forward["B"], backward["B"] - backward["A"]
    (likely,) = await score_choices((pair.right, pair.wrong))
    return VotingFigures(
        votes=supports[0] - supports[1],
        kept_right=supports[0] > 0,
        refused_wrong=supports[1] < 0,
        comparison=lean + swapped_lean,
        steady=lean * swapped_lean > 0,
        likelihood=likely[pair.right] - likely[pair.wrong],
    )


def _support(row: dict[str, float]) -> float:
    return row[prompts.VOTE_WORDS["KEEP"]] - row[prompts.VOTE_WORDS["REFUSE"]]


@dataclass(frozen=True)
class HitRate:
    """A share with its 95 % interval; ``chance`` is what guessing gives."""

    what: str
    share: float
    low: float
    high: float
    chance: float | None


def rates(figures: Sequence[VotingFigures]) -> list[HitRate]:
    """How well the model judges."""

    def rate(label: str, test: Callable[[VotingFigures], bool], chance: float | None = 0.5) -> HitRate:
        hits = sum(test(pair) for pair in figures)
        return HitRate(label, hits / len(figures), *wilson_interval(hits, len(figures)), chance)

    return [
        rate("right above wrong, by votes", lambda one: one.votes > 0),
        rate("right answers kept", lambda one: one.kept_right),
        rate("wrong answers refused", lambda one: one.refused_wrong),
        rate("right preferred, both orders together", lambda one: one.comparison > 0),
        rate("both orders prefer the same", lambda one: one.steady, None),
        rate("right likelier than wrong", lambda one: one.likelihood > 0),
    ]
