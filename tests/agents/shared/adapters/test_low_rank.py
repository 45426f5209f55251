"""Adapters as matrices, and back to files."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import save

from agents.shared.adapters.low_rank import downscaled, dump, load, size
from schemas.errors import StageFailed
from tests.agents.shared.adapters.samples import experts, factors, seeds


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
