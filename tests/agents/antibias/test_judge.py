import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.antibias.judge import judgement_from_odds

odds = st.floats(-20, 20)


@pytest.mark.parametrize(
    ("framings", "verdict"),
    [
        ((3.0, 3.5), "unfair"),
        ((-3.0, -2.0), "fair"),
        ((3.0, -3.0), "undecided"),
        ((1.0, 0.5), "fair"),  # both under the threshold's 0.85 on the whole, and near each other
        ((0.0, 9.0), "undecided"),
    ],
)
def test_both_framings_must_agree(framings: tuple[float, float], verdict: str) -> None:
    assert judgement_from_odds(framings, threshold=0.7, doubt=2.0).verdict == verdict


@given(st.lists(odds, min_size=1, max_size=3), st.floats(0.05, 0.95), st.floats(0, 5))
def test_the_probability_is_that_of_the_mean_odds(framings: list[float], threshold: float, doubt: float) -> None:
    judgement = judgement_from_odds(framings, threshold=threshold, doubt=doubt)
    assert judgement.unfair == pytest.approx(1 / (1 + math.exp(-sum(framings) / len(framings))))
    assert judgement.spread >= 0
    if judgement.verdict != "undecided":
        assert (judgement.verdict == "unfair") == (judgement.unfair >= threshold)


@given(odds, st.floats(0.05, 0.95))
def test_one_framing_always_decides(alone: float, threshold: float) -> None:
    assert judgement_from_odds([alone], threshold=threshold, doubt=0.0).verdict != "undecided"


@given(odds, odds, st.floats(0.05, 0.95), st.floats(0.1, 5))
def test_the_order_of_the_framings_does_not_matter(first: float, second: float, threshold: float, doubt: float) -> None:
    assert judgement_from_odds([first, second], threshold=threshold, doubt=doubt) == judgement_from_odds(
        [second, first], threshold=threshold, doubt=doubt
    )
