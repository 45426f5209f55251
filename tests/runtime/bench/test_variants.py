"""Variants of the cognition: their scores, and runs that are continued."""

from pathlib import Path

import pytest

from runtime.bench.questions import CheckableQuestion, questions
from runtime.bench.variants import VARIANTS, Ledger, VariantAnswer, accuracy_difference, compute_ratio, race, score


def make_answer(
    key: str, *, right: bool, kind: str = "units", compute: float = 1.0, outcome: str = "agreed"
) -> VariantAnswer:
    return VariantAnswer(
        id=key,
        kind=kind,
        right=right,
        text="",
        seconds=2.0,
        compute=compute,
        tokens=10,
        outcome=outcome,
        rounds=0,
        objected=False,
        arbitrated=False,
        biases=(),
        changed=False,
    )


def test_the_variants_leave_out_one_thing_each() -> None:
    names = [variant.name for variant in VARIANTS]
    assert len(set(names)) == len(names)
    assert {"raw", "single", "self-consistency", "full", "everything"} <= set(names)


def test_a_score_compares_a_variant_with_its_base() -> None:
    base = [make_answer("a", right=False), make_answer("b", right=True), make_answer("c", right=True, kind="facts")]
    mine = [
        make_answer("a", right=True, outcome="deferred"),
        make_answer("b", right=True),
        make_answer("d", right=False),
    ]
    figures = score("mine", mine, base)
    assert figures.accuracy == pytest.approx(2 / 3)
    assert figures.low < figures.accuracy < figures.high
    assert figures.by_kind == {"units": pytest.approx(2 / 3)}
    assert figures.outcomes == {"deferred": 1, "agreed": 2}
    assert figures.against is not None
    assert figures.against[0] == 0.5  # of a and b, which both answered
    assert accuracy_difference(mine, [make_answer("z", right=True)]) is None
    ratio = compute_ratio(
        {"a": make_answer("a", right=True, compute=3.0)}, {"a": make_answer("a", right=True, compute=2.0)}
    )
    assert ratio == 1.5
    assert compute_ratio({}, {}) is None


@pytest.mark.anyio
async def test_a_run_is_taken_up_where_it_ended(tmp_path: Path) -> None:
    selection = questions()[:6]
    asked_ids: list[str] = []

    async def ask(question: CheckableQuestion) -> VariantAnswer:
        asked_ids.append(question.id)
        return make_answer(question.id, right=True)

    await race(ask, selection[:4], Ledger(tmp_path / "full.jsonl"), concurrency=3)
    again = Ledger(tmp_path / "full.jsonl")
    assert again.list_missing(selection) == list(selection[4:])
    await race(ask, again.list_missing(selection), again, concurrency=2)
    assert sorted(asked_ids) == sorted(question.id for question in selection)
    assert Ledger(tmp_path / "full.jsonl").list_missing(selection) == []
