from hypothesis import given
from hypothesis import strategies as st

from agents.negotiator.debias import (
    LONG,
    JudgedPair,
    Lean,
    analysis,
    count_feelings,
    findings,
    pairs_without_causes,
    without_feelings,
)

leans = st.floats(-9, 9).filter(lambda value: abs(value) > 0.01)
SHORT = "It leaks."
LONGER = "It leaks, because the seal of the pump was not changed when the pump itself was, and so on and so forth. " * 2


def suspects(first: str, second: str, **more: tuple[str, str]) -> set[str]:
    return set(
        pairs_without_causes(JudgedPair(first=first, second=second, **more), verbosity_ratio=1.5, sentiment_terms=2)
    )


def test_a_cause_is_tried_where_it_is_present() -> None:
    assert suspects(SHORT, "It drips.") == set()
    assert suspects(SHORT, LONGER) == {"verbosity"}
    assert suspects(SHORT, "It drips.", votes=("kept", "refused")) == {"bandwagon"}
    assert suspects("It clearly, obviously leaks!", "It drips.") == {"sentiment"}
    assert suspects("100", "90 and") == set()  # shorter than what has a length to speak of


def test_each_cause_is_taken_away() -> None:
    pair = JudgedPair(first=SHORT, second=LONGER + " Wonderful! Amazing!", votes=("kept", "refused"))
    variants = pairs_without_causes(pair, verbosity_ratio=1.5, sentiment_terms=2)
    assert len(variants["verbosity"].second) <= max(len(SHORT), LONG)
    assert variants["bandwagon"].votes is None
    assert count_feelings(variants["sentiment"].second) == 0
    assert variants["sentiment"].votes == pair.votes


def test_swapping_takes_the_votes_along() -> None:
    pair = JudgedPair(first="a", second="b", votes=("of a", "of b"))
    assert pair.swapped == JudgedPair(first="b", second="a", votes=("of b", "of a"))
    assert pair.swapped.swapped == pair


@given(leans, leans)
def test_position_is_found_when_the_orders_disagree(lean: float, swapped_lean: float) -> None:
    biases = [finding.bias for finding in findings(Lean(lean=lean, swapped=swapped_lean), {})]
    assert biases == ([] if (lean > 0) == (swapped_lean > 0) else ["position"])


@given(leans, leans)
def test_a_cause_is_found_when_its_absence_turns_the_judge(plain: float, variant_lean: float) -> None:
    first = Lean(lean=plain, swapped=plain)
    bias_findings = findings(first, {"verbosity": Lean(lean=variant_lean, swapped=variant_lean)})
    assert [finding.bias for finding in bias_findings] == (["verbosity"] if plain * variant_lean < 0 else [])
    assert all("nats" in finding.evidence for finding in bias_findings)
    assert ("for its length" in analysis(bias_findings)) == bool(bias_findings)


@given(st.text(max_size=120))
def test_sober_text_has_no_feeling_or_is_the_text(text: str) -> None:
    assert without_feelings(text) == text or count_feelings(without_feelings(text)) <= count_feelings(text)


def test_text_of_nothing_but_feeling_stays_as_it_is() -> None:
    assert without_feelings("Amazing!") == "Amazing!"
    assert without_feelings("Unfortunately, it is clearly broken!") == "it is broken"
