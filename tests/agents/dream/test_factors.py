"""Adapters as matrices, and back to files."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import save

from agents.dream.factors import Factors, angle, difference, downscaled, dump, load, size
from schemas.errors import StageFailed
from tests.agents.dream.test_projection import experts, factors, seeds


@given(seeds, experts, st.sampled_from([1.0, 0.5, 20.0]))
@example(72031239, (3,), 20.0)  # an entry of 5e-4 where others are 9
def test_a_file_read_back_is_the_same_change(seed: int, batch: tuple[int, ...], scale: float) -> None:
    weights = {"m": factors(seed, batch)}
    data = dump(weights, scale=scale)
    again = load("a", data, scale=scale)
    assert again["m"].rank == 3
    # an entry is a sum of products that may cancel: its rounding is measured by the largest entry, not by itself
    largest = np.abs(weights["m"].change).max()
    np.testing.assert_allclose(again["m"].change, weights["m"].change, rtol=1e-4, atol=1e-6 * largest)
    assert dump(weights, scale=scale) == data
    assert size(again) == size(weights)


@pytest.mark.parametrize(
    "data", [b"", b"nothing", save({"m.lora_a": np.ones((2, 1), np.float32)}), save({"x": np.ones(1, np.float32)})]
)
def test_a_file_that_is_no_adapter_is_refused(data: bytes) -> None:
    with pytest.raises(StageFailed, match="adapter 'bad'") as caught:
        load("bad", data, scale=1.0)
    assert (caught.value.code, caught.value.param) == ("adapter_failed", "adapter")


@given(seeds, experts)
def test_the_norm_is_that_of_the_whole_matrix(seed: int, batch: tuple[int, ...]) -> None:
    sample = factors(seed, batch)
    assert sample.norm == pytest.approx(float(np.linalg.norm(sample.change)), rel=1e-4)


@given(seeds, st.floats(0.05, 1.0), st.floats(0.05, 1.0))
def test_downscaling_twice_is_downscaling_by_the_product(seed: int, first: float, second: float) -> None:
    weights = {"m": factors(seed)}
    twice = downscaled(downscaled(weights, first), second)["m"]
    np.testing.assert_allclose(twice.change, downscaled(weights, first * second)["m"].change, atol=1e-4)
    assert twice.norm == pytest.approx(first * second * weights["m"].norm, rel=1e-4)


@given(seeds)
def test_angles(seed: int) -> None:
    mine, theirs = {"m": factors(seed)}, {"m": factors(seed + 1)}
    assert angle(mine, mine) == pytest.approx(0.0, abs=0.2)
    assert angle(mine, {"m": Factors(mine["m"].left, -mine["m"].right)}) == pytest.approx(180.0, abs=0.2)
    assert angle(mine, {"elsewhere": mine["m"]}) == 90.0
    flat = [weights["m"].change.ravel() for weights in (mine, theirs)]
    cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert angle(mine, theirs) == pytest.approx(np.degrees(np.arccos(cosine)), abs=0.1)


@given(seeds, experts)
def test_a_difference_added_to_the_old_is_the_new(seed: int, batch: tuple[int, ...]) -> None:
    old, new = {"m": factors(seed, batch), "gone": factors(seed)}, {"m": factors(seed + 1, batch, rank=2)}
    update = difference(new, old)
    np.testing.assert_allclose(update["m"].change, new["m"].change - old["m"].change, atol=1e-4)
    np.testing.assert_allclose(update["gone"].change, -old["gone"].change, atol=1e-4)
