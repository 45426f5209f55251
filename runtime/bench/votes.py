"""``kiki bench votes``: whether a model ranks a right answer above a wrong one: by votes, comparison, likelihood."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from agents.negotiator import prompts
from agents.shared.calibration import BLANK, calibrated
from bus.connection import Bus
from runtime.bench.harness import (
    BenchReport,
    JsonOption,
    PictureOption,
    fresh_runtime,
    progress_bar,
    publish_report,
    read_data,
)
from runtime.bench.intervals import wilson_interval
from runtime.bench.plots import IntervalBar, interval_chart
from runtime.cli import command, run_async, settings_of
from schemas.chat import Message
from schemas.envelope import new_turn

TIMEOUT = 120.0
"""Seconds that one request to the worker may take."""


@command
def votes(
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many pairs.")] = None,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Whether the model ranks a right answer above a wrong one: by votes, by comparison, by likelihood."""
    figures = run_async(_judge_pairs, pairs()[:limit])
    publish_report(_report(figures, settings_of().model), as_json=as_json, picture=picture)


class AnswerPair(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of ``data/pairs.jsonl``; ``also`` says the same as ``right`` in other words."""

    question: str
    right: str
    wrong: str
    also: str | None = None


@cache
def pairs() -> tuple[AnswerPair, ...]:
    """All answer pairs."""
    return read_data("pairs", AnswerPair)


@dataclass(frozen=True)
class VotingFigures:
    """How one pair was judged; by votes, comparison and likelihood the right answer leads by so many nats.

    ``steady``: the comparison prefers the same answer in both orders.
    """

    votes: float
    kept_right: bool
    refused_wrong: bool
    comparison: float
    steady: bool
    likelihood: float


async def judge(bus: Bus, pair: AnswerPair) -> VotingFigures:
    """Ask the worker about one pair, as the negotiator does.

    Raises:
        KikiError: the worker refuses or does not answer.
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
        result = await bus.ask(envelope, lane="auxiliary", messages=question, ballots=conversations, choices=choices)
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
        rate("right above wrong, by votes", lambda pair: pair.votes > 0),
        rate("right answers kept", lambda pair: pair.kept_right),
        rate("wrong answers refused", lambda pair: pair.refused_wrong),
        rate("right preferred, both orders together", lambda pair: pair.comparison > 0),
        rate("both orders prefer the same", lambda pair: pair.steady, None),
        rate("right likelier than wrong", lambda pair: pair.likelihood > 0),
    ]


async def _judge_pairs(selection: Sequence[AnswerPair]) -> list[VotingFigures]:
    figures = []
    async with fresh_runtime("inference") as bus:
        with progress_bar("pairs", total=len(selection)) as tick:
            for pair in selection:
                figures.append(await judge(bus, pair))
                tick()
    return figures


def _report(figures: Sequence[VotingFigures], model: str) -> BenchReport:
    rows = rates(figures)
    table = Table("", "share", "95 %", "by chance", title=f"kiki bench votes: {model}, {len(figures)} pairs", box=None)
    for row in rows:
        chance = "" if row.chance is None else f"{row.chance:.0%}"
        table.add_row(row.what, f"{row.share:.1%}", f"{row.low:.1%} to {row.high:.1%}", chance)
    bars = [IntervalBar(label=row.what, middle=row.share, low=row.low, high=row.high) for row in rows]
    return BenchReport(
        bench="votes",
        fields={"model": model, "pairs": len(figures), "rates": [asdict(row) for row in rows]},
        tables=[table],
        chart=interval_chart(bars, unit=f"share of {len(figures)} pairs, 95 % interval", baseline=0.5),
    )
