from pathlib import Path

import pytest

from runtime.cognition import (
    VARIANTS,
    Answered,
    Ledger,
    Question,
    compute_ratio,
    paired,
    questions,
    race,
    score,
    wilson,
)


def answered(one: str, *, right: bool, kind: str = "units", compute: float = 1.0, outcome: str = "agreed") -> Answered:
    return Answered(
        id=one,
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
        (Question(id="a", kind="x", question="What is 4 + 9?", number=13), "4 + 9 = 13.", True),
        (Question(id="a", kind="x", question="What is 4 + 9?", number=13), "It is 14, as 4 + 9.", False),
        (Question(id="a", kind="x", question="What is 4 + 9?", number=13), "I do not know.", False),
        (Question(id="a", kind="x", question="Capital?", words=("oslo",)), "It is Oslo!", True),
        (Question(id="a", kind="x", question="Symbol?", words=("o",)), "Oxygen", False),
        (Question(id="a", kind="x", question="Upper?", exactly="CAT"), "It shows CAT.", True),
        (Question(id="a", kind="x", question="Upper?", exactly="CAT"), "cat", False),
        (Question(id="a", kind="x", question="JSON?", value={"a": 1}), 'Here:\n```json\n{"a": 1}\n```', True),
        (Question(id="a", kind="x", question="JSON?", value={"a": 1}), '{"a": 2}', False),
        (Question(id="a", kind="x", question="JSON?", value=[]), "an empty list", False),
        (Question(id="a", kind="x", question="JSON?", value=[]), "[]", True),
    ],
)
def test_answers_are_checked(question: Question, answer: str, right: bool) -> None:
    assert question.right(answer) is right


def test_the_questions_are_many_and_each_can_be_checked() -> None:
    found = questions()
    assert len(found) >= 120
    assert len({one.id for one in found}) == len({one.question for one in found}) == len(found)
    assert (
        {one.kind for one in found}
        == {one.kind for one in found[:5]}
        >= {"arithmetic", "units", "facts", "code", "json"}
    )
    assert not any(one.right("I do not know.") for one in found)
    assert not any(one.right("") for one in found)


def test_the_variants_leave_out_one_thing_each() -> None:
    names = [variant.name for variant in VARIANTS]
    assert len(set(names)) == len(names)
    assert {"raw", "single", "self-consistency", "full", "everything"} <= set(names)


def test_figures_of_a_variant() -> None:
    base = [answered("a", right=False), answered("b", right=True), answered("c", right=True, kind="facts")]
    mine = [answered("a", right=True, outcome="deferred"), answered("b", right=True), answered("d", right=False)]
    found = score("mine", mine, base)
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.low < found.accuracy < found.high
    assert found.by_kind == {"units": pytest.approx(2 / 3)}
    assert found.outcomes == {"deferred": 1, "agreed": 2}
    assert found.against is not None
    assert found.against[0] == 0.5  # of a and b, which both answered
    assert paired(mine, [answered("z", right=True)]) is None
    ratio = compute_ratio({"a": answered("a", right=True, compute=3.0)}, {"a": answered("a", right=True, compute=2.0)})
    assert ratio == 1.5
    assert compute_ratio({}, {}) is None


def test_wilsons_interval_is_the_books() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 5)[0] == pytest.approx(0.0)


@pytest.mark.anyio
async def test_a_run_is_taken_up_where_it_ended(tmp_path: Path) -> None:
    wanted = questions()[:6]
    asked: list[str] = []

    async def ask(question: Question) -> Answered:
        asked.append(question.id)
        return answered(question.id, right=True)

    await race(ask, wanted[:4], Ledger(tmp_path / "full.jsonl"), concurrency=3)
    again = Ledger(tmp_path / "full.jsonl")
    assert again.missing(wanted) == list(wanted[4:])
    await race(ask, again.missing(wanted), again, concurrency=2)
    assert sorted(asked) == sorted(question.id for question in wanted)
    assert Ledger(tmp_path / "full.jsonl").missing(wanted) == []
