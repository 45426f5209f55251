import math

from hypothesis import given
from hypothesis import strategies as st

from agents.catfish.engagement import WEIGHTS, complexity, reason_to_waive, reason_too_small, tone
from agents.catfish.settings import CatfishSettings

SETTINGS = CatfishSettings()
HARD = (
    "Design a battery-powered LoRa node that must last five years, without a voltage regulator, and explain how "
    "you would keep the sleep current below two microamperes while the sensor is sampled every minute; at most "
    "three parts may be added, and the firmware must survive a brown-out. Which trade-offs do you see?"
)


def test_weights_sum_to_one() -> None:
    assert math.isclose(sum(WEIGHTS.values()), 1.0)


@given(st.text(max_size=400), st.integers(0, 8), st.lists(st.floats(-30, 0), max_size=4))
def test_complexity_is_a_share(question: str, domains: int, logprobs: list[float]) -> None:
    assert 0.0 <= complexity(question, domains=domains, logprobs=logprobs) <= 1.0


@given(st.integers(0, 7), st.floats(-5, 0))
def test_more_domains_and_more_doubt_are_never_simpler(domains: int, logprob: float) -> None:
    here = complexity("Why?", domains=domains, logprobs=[logprob])
    assert complexity("Why?", domains=domains + 1, logprobs=[logprob]) >= here
    assert complexity("Why?", domains=domains, logprobs=[logprob - 1]) >= here


def test_a_fact_is_simple_and_a_design_is_hard() -> None:
    fact = complexity("What is the capital of France?", domains=0, logprobs=[-0.2])
    design = complexity(HARD, domains=2, logprobs=[-0.8])
    assert fact < SETTINGS.complexity < design


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_tone_is_firmer_with_more_agreement(first: float, second: float) -> None:
    order = ["mild", "firm", "strong"]
    low, high = sorted((first, second))
    assert order.index(tone(low, SETTINGS)) <= order.index(tone(high, SETTINGS))


def test_tones_at_their_thresholds() -> None:
    assert tone(SETTINGS.strong_agreement, SETTINGS) == "strong"
    assert tone(SETTINGS.firm_agreement, SETTINGS) == "firm"
    assert tone(SETTINGS.firm_agreement - 0.01, SETTINGS) == "mild"


def test_reasons_to_stay_silent() -> None:
    simple = reason_to_waive(0.1, [-3.0, -3.0], SETTINGS)
    confident = reason_to_waive(0.9, [-0.01], SETTINGS)
    assert simple is not None
    assert "simple" in simple
    assert confident is not None
    assert "confident" in confident
    assert reason_to_waive(0.9, [-0.01, -0.01], SETTINGS) is None
    assert reason_to_waive(0.9, [-1.0], SETTINGS) is None


def test_a_small_model_is_left_alone() -> None:
    assert reason_too_small(SETTINGS.engage_from, SETTINGS) is None
    assert "135M weights" in (reason_too_small(135_000_000, SETTINGS) or "")
