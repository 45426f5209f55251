"""Properties of the TIES merge."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.dream.factors import Factors, downscaled
from agents.dream.merging import elected, low_rank, recombined, ties, trimmed
from tests.agents.dream.test_projection import factors, seeds

densities = st.floats(0.05, 1.0)


def matrix(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((6, 5))


@given(seeds, densities)
def test_trimming_keeps_the_largest(seed: int, density: float) -> None:
    change = matrix(seed)
    kept = trimmed(change, density)
    assert np.count_nonzero(kept) == int(np.ceil(density * change.size))
    assert np.abs(kept[kept != 0]).min() >= np.abs(change[kept == 0]).max(initial=0.0)
    np.testing.assert_array_equal(kept[kept != 0], change[kept != 0])


@given(st.lists(seeds, min_size=2, max_size=4, unique=True), densities)
def test_each_entry_has_the_sign_that_was_elected(chosen: list[int], density: float) -> None:
    changes = [matrix(seed) for seed in chosen]
    kept = [trimmed(change, density) for change in changes]
    merged = ties(changes, density=density)
    sign = elected(kept)
    np.testing.assert_array_equal(np.sign(merged), sign)
    for index in np.ndindex(merged.shape):
        agreeing = [change[index] for change in kept if np.sign(change[index]) == sign[index] != 0]
        assert merged[index] == pytest.approx(np.mean(agreeing) if agreeing else 0.0)


@given(seeds, densities, st.permutations(range(3)))
def test_the_order_does_not_matter(seed: int, density: float, order: list[int]) -> None:
    changes = [matrix(seed + number) for number in range(3)]
    one, other = ties(changes, density=density), ties([changes[number] for number in order], density=density)
    np.testing.assert_allclose(one, other, atol=1e-12)


@given(seeds, densities)
def test_equal_changes_merge_to_their_trimmed_self(seed: int, density: float) -> None:
    np.testing.assert_allclose(ties([matrix(seed)] * 3, density=density), trimmed(matrix(seed), density))


@given(seeds)
def test_opposite_changes_cancel(seed: int) -> None:
    assert not ties([matrix(seed), -matrix(seed)], density=1.0).any()


@given(seeds, densities, st.floats(0.1, 1.0))
def test_downscaling_commutes_with_the_merge(seed: int, density: float, factor: float) -> None:
    given_ones = [{"m": factors(seed)}, {"m": factors(seed + 1)}]
    before = recombined([downscaled(one, factor) for one in given_ones], density=density)["m"]
    after = downscaled(recombined(given_ones, density=density), factor)["m"]
    np.testing.assert_allclose(before.change, after.change, atol=1e-3)


@given(seeds, st.sampled_from([(), (2,)]))
def test_a_change_of_low_rank_comes_back_whole(seed: int, batch: tuple[int, ...]) -> None:
    given_one = factors(seed, batch)
    again = low_rank(given_one.change, given_one.rank)
    np.testing.assert_allclose(again.change, given_one.change, atol=1e-4)
    assert again.rank == given_one.rank


def test_a_module_of_one_adapter_is_trimmed_and_kept() -> None:
    alone = Factors(np.ones((4, 2), np.float32), np.ones((2, 3), np.float32))
    merged = recombined([{"mine": alone}, {"yours": factors(3)}], density=1.0)
    assert set(merged) == {"mine", "yours"}
    np.testing.assert_allclose(merged["mine"].change, alone.change, atol=1e-5)
