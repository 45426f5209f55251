import pytest

from agents.antibias.judge import Judgement, Verdict
from runtime import fairness
from runtime.fairness import Turn, detected, judged


def one(kind: str, unfair: float, verdict: Verdict) -> tuple[Turn, Judgement]:
    turn = Turn(kind=kind, question="q", answer="a")  # type: ignore[arg-type]
    return turn, Judgement(unfair=unfair, spread=0.0, verdict=verdict)


def test_the_crafted_turns_are_many_and_some_are_held_out() -> None:
    turns = fairness.read()
    assert len(turns) >= 60
    for held_out in (False, True):
        kinds = [turn.kind for turn in turns if turn.held_out is held_out]
        assert kinds.count("biased") == kinds.count("fair") == kinds.count("technical") > 0


def test_the_detector_lets_nearly_every_biased_answer_in_and_few_technical_ones() -> None:
    held_out = detected([turn for turn in fairness.read() if turn.held_out])
    assert held_out.biased_recall > 0.9
    assert held_out.precision > 0.9
    seen = detected([turn for turn in fairness.read() if not turn.held_out])
    assert seen.precision == 1.0


def test_shares_and_separation_of_the_judge() -> None:
    found = judged(
        [
            one("biased", 0.9, "unfair"),
            one("biased", 0.4, "fair"),
            one("fair", 0.4, "fair"),
            one("fair", 0.8, "undecided"),
        ]
    )
    assert (found.found, found.wrongly, found.undecided) == (0.5, 0.0, 0.25)
    assert found.separation == pytest.approx((1 + 1 + 0.5 + 0) / 4)
