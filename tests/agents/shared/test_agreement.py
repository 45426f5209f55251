import json
import math
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.shared.agreement import (
    compare_exactly,
    groups,
    matrix,
    mean,
    needs_embedding,
    numbers,
    overlap,
    probability,
    value,
)

SUM = "What is 12 + 30?"
TOWN = "Which city is the capital of France?"
matrices = st.integers(1, 6).flatmap(
    lambda size: st.lists(st.floats(0, 1), min_size=size * size, max_size=size * size).map(
        lambda values: tuple(
            tuple(
                1.0 if row == column else values[min(row, column) * size + max(row, column)] for column in range(size)
            )
            for row in range(size)
        )
    )
)


@pytest.mark.parametrize(
    ("question", "first", "second", "same"),
    [
        (SUM, "12 + 30 = 42.", "The sum is 42", True),
        (SUM, "12 + 30 = 42.", "The sum is 43", False),
        (SUM, "It is forty-two.", "42", None),
        ("How many legs has a spider?", "A spider has eight legs.", "8", True),
        ("How many metres are in 2 km?", "2,000 metres", "There are 2000 metres in 2 km.", True),
        ("How many metres are in 2 km?", "2 km are 2000 m.", "2 km are 200 m.", False),
        ("How much is 10 % of 45?", "4.50", "It is 4.5.", True),
        ("Is 17 prime?", "Yes, it is.", "True: 17 has no divisors.", True),
        ("Is 17 prime?", "Yes, it is.", "No.", False),
        (TOWN, "Paris.", "paris", True),
        (TOWN, "Paris.", "It is Paris.", None),
        ("Give me JSON.", '{"a": 1, "b": [2]}', '```json\n{"b": [2], "a": 1}\n```', True),
        ("Give me JSON.", '{"a": 1}', '{"a": 2}', False),
        ("Write it in Python.", "```python\nx = 1  # one\n```", "Here:\n```\nx   =   1\n```\nDone.", True),
        ("Write it in Python.", "```python\nx = 1\n```", "```python\nx = 2\n```", False),
        ("Write it in C.", "```c\nint x;\n```", "```c\nint   x;\n```", True),
        ("Tell me of Paris.", "It has 20 districts.", "It has 21 bridges.", None),
    ],
)
def test_values_are_compared_where_there_are_any(question: str, first: str, second: str, same: bool | None) -> None:
    assert compare_exactly(first, second, question=question) is same
    assert compare_exactly(second, first, question=question) is same


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_text_has_a_value_or_none_and_equals_itself(answer: str, question: str) -> None:
    assert value(answer, question=question) == value(answer, question=question)
    assert compare_exactly(answer, answer, question=question) is True


def test_numbers_are_read_in_digits_and_in_words() -> None:
    assert numbers("Twelve of 1,200 cost -3.50 each, not 7th, in v2.1") == ["12", "1200", "-3.5", "7"]
    assert numbers("no number here, not even one") == []


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1))
def test_likeness_grows_with_the_cosine_and_the_overlap(first: float, second: float, some: float, more: float) -> None:
    low, high = sorted((first, second))
    few, many = sorted((some, more))
    assert 0.0 <= probability(low, few) <= probability(high, many) <= 1.0


def test_overlap_counts_words_that_the_question_does_not_give() -> None:
    assert overlap("The capital of France is Paris.", "Paris is the capital.", question=TOWN) == 1.0
    assert overlap("The capital of France is Paris.", "The capital of France is Lyon.", question=TOWN) == 0.0
    assert overlap("", "Paris", question=TOWN) == 0.0


@pytest.mark.parametrize("kind", ["right", "wrong"])
def test_the_overlap_tells_most_of_the_pairs_apart(kind: str) -> None:
    lines = files("runtime.bench").joinpath("data/pairs.jsonl").read_text().splitlines()
    pairs = [pair for pair in map(json.loads, lines) if "also" in pair]
    same = [overlap(pair[kind], pair["also"], question=pair["question"]) >= 0.5 for pair in pairs]
    assert len(pairs) >= 40
    assert sum(alike == (kind == "right") for alike in same) / len(pairs) > 0.9


@given(matrices)
def test_each_answer_is_in_one_group_and_the_largest_is_first(same: tuple[tuple[float, ...], ...]) -> None:
    index_groups = groups(same)
    assert sorted(index for group in index_groups for index in group) == list(range(len(same)))
    sizes = [len(group) for group in index_groups]
    assert sizes == sorted(sizes, reverse=True)
    assert all(list(group) == sorted(group) for group in index_groups)
    assert 0.0 <= mean(same) <= 1.0


def test_prose_alone_needs_embedding() -> None:
    assert not needs_embedding(["42", "It is 43."], question=SUM)
    assert needs_embedding(["Paris.", "The city is Paris."], question=TOWN)

    def fail_cosine(first: int, second: int) -> float:
        raise AssertionError

    assert matrix(["42", "43", "42."], question=SUM, cosine=fail_cosine) == (
        (1.0, 0.0, 1.0),
        (0.0, 1.0, 0.0),
        (1.0, 0.0, 1.0),
    )
    assert math.isclose(mean(matrix(["42", "43", "42."], question=SUM, cosine=fail_cosine)), 1 / 3)
    assert mean(((1.0,),)) == 1.0
