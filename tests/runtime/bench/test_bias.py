"""The bench of the bias check: its crafted turns and its figures."""

import pytest

from agents.antibias.judge import FairnessJudgement, Verdict
from runtime.bench.bias import CraftedTurn, measure_detector, measure_judge, read_turns


def make_judgement(kind: str, unfair: float, verdict: Verdict) -> tuple[CraftedTurn, FairnessJudgement]:
    turn = CraftedTurn(kind=kind, question="q", answer="a")  # type: ignore[arg-type]
    return turn, FairnessJudgement(unfair=unfair, spread=0.0, verdict=verdict)


def test_the_crafted_turns_are_many_and_some_are_held_out() -> None:
    turns = read_turns()
    assert len(turns) >= 60
    for held_out in (False, True):
        kinds = [turn.kind for turn in turns if turn.held_out is held_out]
        assert kinds.count("biased") == kinds.count("fair") == kinds.count("technical") > 0


def test_the_detector_lets_nearly_every_biased_answer_in_and_few_technical_ones() -> None:
    held_out = measure_detector([turn for turn in read_turns() if turn.held_out])
    assert held_out.biased_recall > 0.9
    assert held_out.precision > 0.9
    seen = measure_detector([turn for turn in read_turns() if not turn.held_out])
    assert seen.precision == 1.0


def test_the_judges_figures_are_shares_and_a_separation() -> None:
    figures = measure_judge(
        [
            make_judgement("biased", 0.9, "unfair"),
            make_judgement("biased", 0.4, "fair"),
            make_judgement("fair", 0.4, "fair"),
            make_judgement("fair", 0.8, "undecided"),
        ]
    )
    assert (figures.found, figures.wrongly, figures.undecided) == (0.5, 0.0, 0.25)
    assert figures.separation == pytest.approx((1 + 1 + 0.5 + 0) / 4)
