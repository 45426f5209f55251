"""Whether a model can judge: a right and a wrong answer, ranked by its votes, its comparisons and its likelihood."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import msgspec

from agents.negotiator import prompts
from agents.shared.calibration import BLANK, calibrated
from bus.connection import Bus
from runtime.cognition import wilson
from schemas.chat import Message
from schemas.envelope import new_turn

TIMEOUT = 120.0
"""Seconds that one job may take."""


class AnswerPair(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of ``configs/cognition/pairs.jsonl``; ``also`` says the same as ``right`` in other words."""

    question: str
    right: str
    wrong: str
    also: str | None = None


@cache
def pairs() -> tuple[AnswerPair, ...]:
    """All of them."""
    lines = files("configs").joinpath("cognition/pairs.jsonl").read_bytes().splitlines()
    return tuple(msgspec.json.decode(line, type=AnswerPair) for line in lines)


@dataclass(frozen=True)
class Judged:
    """One pair: how far each way of judging prefers the right answer, in nats; ``steady``: in both orders."""

    votes: float
    kept_right: bool
    refused_wrong: bool
    comparison: float
    steady: bool
    likelihood: float


async def judge(bus: Bus, pair: AnswerPair) -> Judged:
    """Ask the worker about one pair, as the negotiator does.

    Raises:
        KikiError: it refuses or does not answer.
    """
    question = (Message(role="user", content=pair.question),)
    ballots = tuple(prompts.ballot(answer, objection=None) for answer in (BLANK, pair.right, pair.wrong))
    labels = tuple(prompts.SPOKEN.values())
    orders = tuple(
        prompts.comparison(one, other, objection=None, votes=None, analysis="")
        for one, other in ((pair.right, pair.wrong), (pair.wrong, pair.right))
    )

    async def scored(choices: tuple[str, ...], asked: tuple[tuple[Message, ...], ...] = ()) -> list[dict[str, float]]:
        envelope = new_turn(tenant="bench", timeout=TIMEOUT)
        result = await bus.ask(envelope, lane="auxiliary", messages=question, ballots=asked, choices=choices)
        return list(result.scores)

    habit, right, wrong = await scored(labels, ballots)
    supports = [_support(calibrated(row, habit)) for row in (right, wrong)]
    forward, backward = await scored(prompts.LETTERS, orders)
    lean, swapped = forward["A"] - forward["B"], backward["B"] - backward["A"]
    (likely,) = await scored((pair.right, pair.wrong))
    return Judged(
        votes=supports[0] - supports[1],
        kept_right=supports[0] > 0,
        refused_wrong=supports[1] < 0,
        comparison=lean + swapped,
        steady=lean * swapped > 0,
        likelihood=likely[pair.right] - likely[pair.wrong],
    )


def _support(row: dict[str, float]) -> float:
    return row[prompts.SPOKEN["KEEP"]] - row[prompts.SPOKEN["REFUSE"]]


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % interval; ``chance`` is what guessing gives."""

    what: str
    share: float
    low: float
    high: float
    chance: float | None


def rates(found: Sequence[Judged]) -> list[Rate]:
    """How well the model judges."""

    def rate(what: str, test: Callable[[Judged], bool], chance: float | None = 0.5) -> Rate:
        hits = sum(test(one) for one in found)
        return Rate(what, hits / len(found), *wilson(hits, len(found)), chance)

    return [
        rate("right above wrong, by votes", lambda one: one.votes > 0),
        rate("right answers kept", lambda one: one.kept_right),
        rate("wrong answers refused", lambda one: one.refused_wrong),
        rate("right preferred, both orders together", lambda one: one.comparison > 0),
        rate("both orders prefer the same", lambda one: one.steady, None),
        rate("right likelier than wrong", lambda one: one.likelihood > 0),
    ]
