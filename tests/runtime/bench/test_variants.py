from pathlib import Path

import pytest

from runtime.bench.variants import (
    VARIANTS,
    CheckableQuestion,
    Ledger,
    VariantAnswer,
    accuracy_difference,
    compute_ratio,
    questions,
    race,
    score,
    wilson_interval,
)


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


@pytest.mark.parametrize(
    ("question", "answer", "right"),
    [
        (CheckableQuestion(id="a", kind="x", question="What is 4 + 9?", number=13), "4 + 9 = 13.", True),
        (CheckableQuestion(id="a", kind="x", question="What is 4 + 9?", number=13), "It is 14, as 4 + 9.", False),
        (CheckableQuestion(id="a", kind="x", question="What is 4 + 9?", number=13), "I do not know.", False),
        (CheckableQuestion(id="a", kind="x", question="Capital?", words=("oslo",)), "It is Oslo!", True),
        (CheckableQuestion(id="a", kind="x", question="Symbol?", words=("o",)), "Oxygen", False),
        (CheckableQuestion(id="a", kind="x", question="Upper?", exactly="CAT"), "It shows CAT.", True),
        (CheckableQuestion(id="a", kind="x", question="Upper?", exactly="CAT"), "cat", False),
        (CheckableQuestion(id="a", kind="x", question="JSON?", value={"a": 1}), 'Here:\n```json\n{"a": 1}\n```', True),
        (CheckableQuestion(id="a", kind="x", question="JSON?", value={"a": 1}), '{"a": 2}', False),
        (CheckableQuestion(id="a", kind="x", question="JSON?", value=[]), "an empty list", False),
        (CheckableQuestion(id="a", kind="x", question="JSON?", value=[]), "[]", True),
    ],
)
def test_answers_are_checked(question: CheckableQuestion, answer: str, right: bool) -> None:
    assert question.is_right(answer) is right


def test_the_questions_are_many_and_each_can_be_checked() -> None:
    all_questions = questions()
    assert len(all_questions) >= 120
    assert (
        len({question.id for question in all_questions})
        == len({question.question for question in all_questions})
        == len(all_questions)
    )
    assert (
        {question.kind for question in all_questions}
        == {question.kind for question in all_questions[:5]}
        >= {"arithmetic", "units", "facts", "code", "json"}
    )
    assert not any(question.is_right("I do not know.") for question in all_questions)
    assert not any(question.is_right("") for question in all_questions)


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


def test_wilsons_interval_is_the_books() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 5)[0] == pytest.approx(0.0)


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
