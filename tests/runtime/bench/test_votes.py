"""The bench of votes: its pairs, what the worker is asked, and its rates."""

import pytest

from bus.connection import Bus
from bus.testing import Scores
from runtime.bench.votes import VotingFigures, judge, pairs, rates
from schemas.jobs import Job
from tests.agents.scripted import ballot_answer, is_blank, scripted_worker

pytestmark = pytest.mark.anyio


def test_the_pairs_are_many_and_differ() -> None:
    all_pairs = pairs()
    assert len(all_pairs) >= 60
    assert len({pair.question for pair in all_pairs}) == len(all_pairs)
    assert all(pair.right != pair.wrong for pair in all_pairs)
    assert sum(pair.also is not None for pair in all_pairs) >= 40


async def test_a_judge_is_asked_as_the_negotiator_asks(bus: Bus) -> None:
    pair = pairs()[0]

    def script(job: Job) -> Scores:
        if job.choices == ("A", "B"):
            return {"A": -0.1, "B": -2.0}  # whatever comes first
        if is_blank(job):
            return dict.fromkeys(job.choices, -1.0)
        if job.choices == (pair.right, pair.wrong):
            return {pair.right: -1.0, pair.wrong: -4.0}
        return {"Yes": -1.0, "No": -2.0 if ballot_answer(job) == pair.right else -0.5, "Maybe": -3.0}

    async with scripted_worker(bus, script):
        figures = await judge(bus, pair)
    assert (figures.kept_right, figures.refused_wrong, figures.steady) == (True, True, False)
    assert (figures.votes, figures.comparison, figures.likelihood) == pytest.approx((1.5, 0.0, 3.0))


def test_rates_are_shares() -> None:
    good = VotingFigures(votes=1.0, kept_right=True, refused_wrong=False, comparison=-1.0, steady=True, likelihood=2.0)
    bad = VotingFigures(votes=-1.0, kept_right=True, refused_wrong=False, comparison=-1.0, steady=False, likelihood=2.0)
    assert [rate.share for rate in rates([good, bad])] == [0.5, 1.0, 0.0, 0.0, 0.5, 1.0]
