"""Constants are judged on the group that did not choose them."""

import pytest

from runtime.bench.cross_validation import cross_validate


def test_each_group_is_judged_with_what_the_others_choose() -> None:
    values = {
        "low": {"a": [1.0, 1.0], "b": [0.0], "c": [0.0]},
        "high": {"a": [0.0, 0.0], "b": [1.0], "c": [1.0]},
    }
    result = cross_validate(values)
    assert {fold.group: fold.choice for fold in result.folds} == {"a": "high", "b": "low", "c": "low"}
    assert [fold.mean for fold in result.folds] == [0.0, 0.0, 0.0]
    assert result.mean == 0.0


def test_groups_count_by_their_values_and_of_equal_choices_the_first_stands() -> None:
    rows = {"a": [1.0, 1.0, 1.0], "b": [0.0]}
    result = cross_validate({(0.3, 0.1): rows, (0.2, 0.1): rows})
    assert {fold.choice for fold in result.folds} == {(0.3, 0.1)}
    assert result.mean == 0.75
    assert result.by_group == (0.0, 1.0)
    assert result.by_value[0] < result.mean < result.by_value[1] == 1.0


@pytest.mark.parametrize("values", [{}, {"only": {"a": [1.0]}}])
def test_one_group_cannot_be_left_out(values: dict[str, dict[str, list[float]]]) -> None:
    with pytest.raises(ValueError, match="two groups"):
        cross_validate(values)
