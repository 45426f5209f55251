from hypothesis import given
from hypothesis import strategies as st

from agents.negotiator.debias import LONG, Lean, Pair, analysis, feelings, findings, sober, without

leans = st.floats(-9, 9).filter(lambda value: abs(value) > 0.01)
SHORT = "It leaks."
LONGER = "It leaks, because the seal of the pump was not changed when the pump itself was, and so on and so forth. " * 2


def tried(first: str, second: str, **more: tuple[str, str]) -> set[str]:
    return set(without(Pair(first=first, second=second, **more), verbosity_ratio=1.5, sentiment_terms=2))


def test_only_a_cause_that_is_there_is_tried() -> None:
    assert tried(SHORT, "It drips.") == set()
    assert tried(SHORT, LONGER) == {"verbosity"}
    assert tried(SHORT, "It drips.", votes=("kept", "refused")) == {"bandwagon"}
    assert tried("It clearly, obviously leaks!", "It drips.") == {"sentiment"}
    assert tried("100", "90 and") == set()  # shorter than what has a length to speak of


def test_each_cause_is_taken_away() -> None:
    pair = Pair(first=SHORT, second=LONGER + " Wonderful! Amazing!", votes=("kept", "refused"))
    found = without(pair, verbosity_ratio=1.5, sentiment_terms=2)
    assert len(found["verbosity"].second) <= max(len(SHORT), LONG)
    assert found["bandwagon"].votes is None
    assert feelings(found["sentiment"].second) == 0
    assert found["sentiment"].votes == pair.votes


def test_swapping_takes_the_votes_along() -> None:
    pair = Pair(first="a", second="b", votes=("of a", "of b"))
    assert pair.swapped == Pair(first="b", second="a", votes=("of b", "of a"))
    assert pair.swapped.swapped == pair


@given(leans, leans)
def test_position_is_found_when_the_orders_disagree(lean: float, swapped: float) -> None:
    biases = [finding.bias for finding in findings(Lean(lean=lean, swapped=swapped), {})]
    assert biases == ([] if (lean > 0) == (swapped > 0) else ["position"])


@given(leans, leans)
def test_a_cause_is_found_when_its_absence_turns_the_judge(plain: float, without_it: float) -> None:
    first = Lean(lean=plain, swapped=plain)
    found = findings(first, {"verbosity": Lean(lean=without_it, swapped=without_it)})
    assert [finding.bias for finding in found] == (["verbosity"] if plain * without_it < 0 else [])
    assert all("nats" in finding.evidence for finding in found)
    assert ("for its length" in analysis(found)) == bool(found)


@given(st.text(max_size=120))
def test_sober_text_has_no_feeling_or_is_the_text(text: str) -> None:
    assert sober(text) == text or feelings(sober(text)) <= feelings(text)


def test_nothing_but_feeling_stays_as_it_is() -> None:
    assert sober("Amazing!") == "Amazing!"
    assert sober("Unfortunately, it is clearly broken!") == "it is broken"
