"""The judge of everyday answers: patterns with their case, programs that run, loop and raise, queries, commands."""

import time
from collections import Counter

import pytest

from runtime.bench import judge
from runtime.bench.judge import EverydayQuestion, extract_code, matches, read_everyday_questions, run_python, run_query

EVEN = EverydayQuestion(kind="code", question="?", language="python", check="assert is_even(4) and not is_even(7)")
QUERY = EverydayQuestion(kind="code", question="?", language="sql", check="ann bob")
LISTING = EverydayQuestion(kind="code", question="?", language="shell", check=r"\bls\s+(-\w+\s+)*-\w*[aA]")
FRENCH = EverydayQuestion(kind="french", question="?", expected=(r"\bmadrid\b",), wrong=(r"\b(the|is)\b",))
BOTH = EverydayQuestion(kind="definition", question="?", expected=(r"\bforce\b", "(attract|pull)"))

GOOD_CODE = "def is_even(n):\n    return n % 2 == 0"


@pytest.mark.parametrize(
    ("question", "answer", "right"),
    [
        (BOTH, "A FORCE that attracts masses.", True),
        (BOTH, "A force between masses.", False),
        (FRENCH, "La capitale est Madrid.", True),
        (FRENCH, "The capital is Madrid.", False),
        (FRENCH, "", False),
        (EVEN, f"Here:\n```python\n{GOOD_CODE}\n```\nIt divides by two.", True),
        (EVEN, GOOD_CODE, True),
        (EVEN, f"Here:\n```python\n{GOOD_CODE}", True),
        (EVEN, "```python\ndef is_even(n):\n    return n % 2 == 1\n```", False),
        (EVEN, "```python\ndef even(n):\n    return True\n```", False),
        (EVEN, "```python\ndef is_even(n)\n```", False),
        (EVEN, "A number is even when two divides it.", False),
        (QUERY, "```sql\n-- the names\nSELECT name FROM users WHERE age > 30 ORDER BY name;\n```", True),
        (QUERY, "Use select name from users where age > 30 order by name asc; it sorts.", True),
        (QUERY, "```sql\nSELECT name FROM users WHERE age > 30 ORDER BY age DESC;\n```", False),
        (QUERY, "```sql\nSELECT * FROM users WHERE age > 30 ORDER BY name;\n```", False),
        (QUERY, "```sql\nSELECT name FROM people;\n```", False),
        (QUERY, "Order the users by name.", False),
        (LISTING, "Run `ls -la`.", True),
        (LISTING, "Run `ls -l -A`.", True),
        (LISTING, "Run `ls -l`.", False),
    ],
)
def test_answers_are_judged(question: EverydayQuestion, answer: str, right: bool) -> None:
    assert question.is_right(answer) is right


@pytest.mark.parametrize(
    "code",
    [
        "raise ValueError('no')",
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "input()",
        "numbers = [0] * 2**31",
        "open('big', 'wb').write(b'0' * 2**22)",
    ],
    ids=["raises", "exits", "exits at once", "asks", "fills the memory", "fills the disk"],
)
def test_code_that_ends_before_its_check_is_wrong(code: str) -> None:
    assert run_python(f"{GOOD_CODE}\n{code}", "") is False
    assert run_python(GOOD_CODE, "") is True


def test_code_that_never_ends_is_stopped_and_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "PYTHON_SECONDS", 1)
    started = time.monotonic()
    assert run_python("while True:\n    pass", "") is False
    assert time.monotonic() - started < 5


def test_code_sees_neither_the_environment_nor_the_working_directory() -> None:
    check = "import os\nassert os.listdir() == [] and not {'PATH', 'HOME', 'PYTHONPATH'} & set(os.environ)"
    assert run_python("", check) is True


def test_case_counts_where_a_pattern_has_an_upper_case_letter() -> None:
    assert matches(r"\bAu\b", "Its symbol is Au.")
    assert not matches(r"\bAu\b", "au lait")
    assert matches(r"\brome\b", "ROME")
    assert matches(r"\Wrome\W", " Rome.")  # the escapes' letters do not count


def test_code_is_the_first_fenced_block_or_the_whole_answer() -> None:
    assert extract_code("a\n```python\none\n```\nb\n```\ntwo\n```") == "one\n"
    assert extract_code("x = 1") == "x = 1"


def test_a_query_that_changes_the_table_is_no_query() -> None:
    assert run_query("DROP TABLE users") is None


def test_there_are_eight_questions_of_each_kind_and_no_answer_is_wrong() -> None:
    questions = read_everyday_questions()
    assert Counter(question.kind for question in questions) == dict.fromkeys(
        ("fact", "sum", "definition", "code", "french"), 8
    )
    assert all(question.expected or question.check for question in questions)
    assert len({question.question for question in questions}) == len(questions)
    assert not any(question.is_right("") for question in questions)
