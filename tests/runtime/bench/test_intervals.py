"""The 95 % intervals, and the paired comparison: its order, its ratio and its interval; cross-validation."""

import pytest

from runtime.bench.intervals import bootstrap_interval, compare, cross_validate, paired_ratio, wilson_interval


def test_the_wilson_interval_is_that_of_the_textbook() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 5)[0] == pytest.approx(0.0)


def test_the_bootstrap_interval_holds_the_mean_and_is_the_same_each_time() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0, 0.5]
    low, high = bootstrap_interval(values)
    assert 0.0 <= low < sum(values) / len(values) < high <= 1.0
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval([2.0, 2.0, 2.0], draws=100) == (2.0, 2.0)


@pytest.mark.anyio
async def test_the_arm_that_begins_changes_and_every_pair_counts() -> None:
    began: list[str] = []

    async def first(number: int) -> float:
        began.append(f"first{number}")
        return 2.0

    async def second(number: int) -> float:
        began.append(f"second{number}")
        return 1.0

    comparison = await compare(first, second, pairs=4)
    assert began == ["first0", "second0", "second1", "first1", "first2", "second2", "second3", "first3"]
    assert (comparison.first, comparison.second, comparison.pairs) == (2.0, 1.0, 4)
    assert comparison.ratio == pytest.approx(2.0)


def test_a_load_on_both_arms_of_a_pair_is_no_difference() -> None:
    comparison = paired_ratio([(1.0 * load, 1.01 * load) for load in (1.0, 5.0, 2.0, 9.0, 1.0, 3.0)])
    assert comparison.ratio == pytest.approx(1 / 1.01)
    assert comparison.low == pytest.approx(comparison.high)


def test_the_interval_holds_the_ratio_and_one_where_noise_is_all_there_is() -> None:
    comparison = paired_ratio([(1.0, 1.1), (1.1, 1.0), (1.0, 0.9), (0.9, 1.0), (1.0, 1.05), (1.05, 1.0)])
    assert comparison.low < 1.0 < comparison.high
    assert comparison.low <= comparison.ratio <= comparison.high


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
