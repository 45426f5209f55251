"""Questions with checkable answers."""

import pytest

from runtime.bench.questions import CheckableQuestion, questions


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
