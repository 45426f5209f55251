"""The 95 % intervals."""

import pytest

from runtime.bench.intervals import bootstrap_interval, wilson_interval


def test_the_wilson_interval_is_that_of_the_textbook() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(0, 5)[0] == pytest.approx(0.0)


def test_the_bootstrap_interval_holds_the_mean_and_is_the_same_each_time() -> None:
    values = [0.0, 1.0, 1.0, 0.0, 1.0, 0.5]
    low, high = bootstrap_interval(values)
    assert 0.0 <= low < sum(values) / len(values) < high <= 1.0
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval([2.0, 2.0, 2.0], draws=100) == (2.0, 2.0)
