import math

from hypothesis import given
from hypothesis import strategies as st

from agents.shared.calibration import calibrated

LABELS = ("KEEP", "REFUSE", "NEUTRAL")
logprobs = st.fixed_dictionaries({label: st.floats(-50, 0) for label in LABELS})


@given(logprobs, logprobs)
def test_probabilities_sum_to_one(scores: dict[str, float], prior: dict[str, float]) -> None:
    assert math.isclose(sum(map(math.exp, calibrated(scores, prior).values())), 1.0, rel_tol=1e-9)


@given(logprobs)
def test_scores_equal_to_the_blank_prompts_become_uniform(scores: dict[str, float]) -> None:
    assert all(math.isclose(value, -math.log(3), abs_tol=1e-9) for value in calibrated(scores, scores).values())


def test_a_habit_is_taken_away() -> None:
    prior = {"KEEP": -1.0, "REFUSE": -9.0, "NEUTRAL": -9.0}
    scores = {"KEEP": -1.0, "REFUSE": -6.0, "NEUTRAL": -9.0}
    assert max(calibrated(scores, prior).items(), key=lambda pair: pair[1])[0] == "REFUSE"
