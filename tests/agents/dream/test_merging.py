"""Properties of the TIES merge."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.dream.merging import elect_sign, low_rank, merge_by_ties, recombine, trimmed
from agents.shared.adapters.low_rank import Factors, downscaled
from tests.agents.shared.adapters.samples import factors, seeds

densities = st.floats(0.05, 1.0)


def matrix(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((6, 5))


@given(seeds, densities)
def test_trimming_keeps_the_largest(seed: int, density: float) -> None:
    change = matrix(seed)
    trimmed_change = trimmed(change, density)
    assert np.count_nonzero(trimmed_change) == int(np.ceil(density * change.size))
    assert np.abs(trimmed_change[trimmed_change != 0]).min() >= np.abs(change[trimmed_change == 0]).max(initial=0.0)
    np.testing.assert_array_equal(trimmed_change[trimmed_change != 0], change[trimmed_change != 0])


@given(st.lists(seeds, min_size=2, max_size=4, unique=True), densities)
def test_each_entry_has_the_sign_that_was_elected(change_seeds: list[int], density: float) -> None:
    changes = [matrix(seed) for seed in change_seeds]
    trimmed_changes = [trimmed(change, density) for change in changes]
    merged = merge_by_ties(changes, density=density)
    sign = elect_sign(trimmed_changes)
    np.testing.assert_array_equal(np.sign(merged), sign)
    for index in np.ndindex(merged.shape):
        agreeing = [change[index] for change in trimmed_changes if np.sign(change[index]) == sign[index] != 0]
        assert merged[index] == pytest.approx(np.mean(agreeing) if agreeing else 0.0)


@given(seeds, densities, st.permutations(range(3)))
def test_the_order_of_the_changes_does_not_matter(seed: int, density: float, order: list[int]) -> None:
    changes = [matrix(seed + number) for number in range(3)]
    merged, reordered = (
        merge_by_ties(changes, density=density),
        merge_by_ties([changes[number] for number in order], density=density),
    )
    np.testing.assert_allclose(merged, reordered, atol=1e-12)


@given(seeds, densities)
def test_equal_changes_merge_to_their_trimmed_self(seed: int, density: float) -> None:
    np.testing.assert_allclose(merge_by_ties([matrix(seed)] * 3, density=density), trimmed(matrix(seed), density))


@given(seeds)
def test_opposite_changes_cancel(seed: int) -> None:
    assert not merge_by_ties([matrix(seed), -matrix(seed)], density=1.0).any()


@given(seeds, densities, st.floats(0.1, 1.0))
def test_downscaling_commutes_with_the_merge(seed: int, density: float, factor: float) -> None:
    adapters = [{"m": factors(seed)}, {"m": factors(seed + 1)}]
    before = recombine([downscaled(weights, factor) for weights in adapters], density=density)["m"]
    after = downscaled(recombine(adapters, density=density), factor)["m"]
    np.testing.assert_allclose(before.change, after.change, atol=1e-3)


@given(seeds, st.sampled_from([(), (2,)]))
def test_a_change_of_low_rank_comes_back_whole(seed: int, batch: tuple[int, ...]) -> None:
    sample = factors(seed, batch)
    again = low_rank(sample.change, sample.rank)
    np.testing.assert_allclose(again.change, sample.change, atol=1e-4)
    assert again.rank == sample.rank


def test_a_module_of_one_adapter_is_trimmed_and_kept() -> None:
    alone = Factors(np.ones((4, 2), np.float32), np.ones((2, 3), np.float32))
    merged = recombine([{"mine": alone}, {"yours": factors(3)}], density=1.0)
    assert set(merged) == {"mine", "yours"}
    np.testing.assert_allclose(merged["mine"].change, alone.change, atol=1e-5)
