"""torch's int8 product and its BLAS, against NumPy in double precision."""

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from agents.inference.int8 import kernel
from agents.inference.int8.conversion import round_up_to_bfloat16
from agents.inference.int8.kernel import Floats, Int8Product, KernelUnavailable

OUTPUTS, INPUTS = 67, 208
HALF_UNIT = 2.0**-8
"""The largest relative error of a number rounded to bfloat16, which has eight significant bits."""


def new_floats(*shape: int, seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def new_numbers(outputs: int = OUTPUTS, inputs: int = INPUTS) -> NDArray[np.int8]:
    numbers = kernel.allocate((outputs, inputs), np.int8)
    numbers[...] = np.random.default_rng(0).integers(-127, 128, numbers.shape, np.int8)
    return numbers


def to_bfloat16(numbers: Floats) -> Floats:
    bits = np.empty(numbers.shape, np.uint16)
    kernel.round_to_bfloat16(numbers, bits)
    return kernel.widen(bits)


@pytest.mark.parametrize("tokens", [1, 3, 8, 31])
def test_the_product_is_exact_but_for_the_rounding_of_tokens_and_results(tokens: int) -> None:
    """A rounded result is off by half a unit at most; so is each rounded token, by half a unit of its products."""
    numbers = new_numbers()
    scales, x = (
        round_up_to_bfloat16(np.abs(new_floats(OUTPUTS, seed=1) / 100)),
        new_floats(tokens, INPUTS, seed=tokens),
    )
    product = Int8Product(numbers, scales)(x)
    weights = numbers * scales[:, None].astype(np.float64)
    sizes = np.abs(x) @ np.abs(weights).T
    of_rounded = to_bfloat16(x) @ weights.T
    assert product.shape == (tokens, OUTPUTS)
    assert (np.abs(product - of_rounded) <= 1.01 * HALF_UNIT * np.abs(of_rounded) + 1e-6 * sizes).all()
    exact = x @ weights.T
    assert (np.abs(product - exact) <= 1.01 * HALF_UNIT * (sizes + np.abs(exact))).all()
    assert np.abs(product - exact).max() > 0.0


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 8, 31])
@pytest.mark.parametrize("inputs", [16, 48, 64, 80, 896])
@pytest.mark.parametrize("outputs", [1, 5, 30, 64])
def test_shapes_of_every_remainder_are_multiplied(outputs: int, inputs: int, tokens: int) -> None:
    numbers, x = new_numbers(outputs, inputs), new_floats(tokens, inputs, seed=3)
    exact, sizes = x @ numbers.T.astype(np.float64), np.abs(x) @ np.abs(numbers.T.astype(np.float64))
    product = Int8Product(numbers, np.ones(outputs, np.float32))(x)
    assert (np.abs(product - exact) <= 2 * HALF_UNIT * (sizes + np.abs(exact))).all()


def test_numbers_that_the_kernel_would_read_wrongly_or_die_of_are_refused() -> None:
    room, scales = kernel.allocate((9, 64), np.int8), np.ones(8, np.float32)
    with pytest.raises(ValueError, match="cannot read"):
        Int8Product(room.reshape(-1)[8 : 8 + 8 * 64].reshape(8, 64), scales)
    with pytest.raises(ValueError, match="cannot read"):
        Int8Product(kernel.allocate((8, 40), np.int8), scales)
    with pytest.raises(ValueError, match="cannot read"):
        Int8Product(kernel.allocate((8, 128), np.int8)[:, ::2], scales)


def test_tokens_that_are_not_contiguous_are_multiplied_like_others() -> None:
    numbers = new_numbers()
    product, wide = Int8Product(numbers, np.ones(OUTPUTS, np.float32)), new_floats(3, 2 * INPUTS, seed=0)
    np.testing.assert_array_equal(product(wide[:, ::2]), product(wide[:, ::2].copy()))


def test_a_result_survives_later_products() -> None:
    numbers = new_numbers()
    product = Int8Product(numbers, np.ones(OUTPUTS, np.float32))
    first = product(new_floats(2, INPUTS, seed=0))
    before = first.copy()
    for seed in range(1, 5):
        product(new_floats(2, INPUTS, seed=seed))
    np.testing.assert_array_equal(first, before)


@pytest.mark.parametrize(("tokens", "begin", "outputs"), [(1, 0, 5), (33, 4, 7), (40, 11, 1)])
def test_multiply_floats_writes_exactly_its_columns(tokens: int, begin: int, outputs: int) -> None:
    x, weights = new_floats(tokens, INPUTS, seed=0), new_floats(outputs, INPUTS, seed=1)
    into = np.full((tokens, 12), np.nan, np.float32)
    kernel.multiply_floats(x, weights, into, begin=begin)
    np.testing.assert_allclose(
        into[:, begin : begin + outputs], x.astype(np.float64) @ weights.T, atol=1e-5 * INPUTS**0.5, rtol=1e-5
    )
    assert np.isnan(np.delete(into, np.s_[begin : begin + outputs], axis=1)).all()


@given(arrays.arrays(np.uint16, 20, elements=st.integers(0, 0xFFFF)))
def test_bfloat16_numbers_round_to_themselves(bits: Any) -> None:
    again = np.empty_like(bits)
    kernel.round_to_bfloat16(kernel.widen(bits), again)
    np.testing.assert_array_equal(again, bits)


@given(arrays.arrays(np.float32, 20, elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)))
def test_rounding_takes_the_nearest_bfloat16_number(numbers: Floats) -> None:
    assert (np.abs(to_bfloat16(numbers) - numbers) <= HALF_UNIT * np.abs(numbers)).all()


def test_infinities_and_nan_stay_what_they_are() -> None:
    np.testing.assert_array_equal(
        to_bfloat16(np.array([np.inf, -np.inf, np.nan], np.float32)), [np.inf, -np.inf, np.nan]
    )


class FakeLibrary:
    """torch's library without some of its symbols."""

    def __init__(self, *missing: str) -> None:
        self._library, self._missing = ctypes.CDLL(None), missing

    def __getattr__(self, name: str) -> Any:
        if name in self._missing:
            raise AttributeError(f"undefined symbol: {name}")
        return getattr(self._library, name)


@pytest.fixture
def clear_caches() -> Iterator[None]:
    """The library is looked for once in a process: again in this test, and again after it."""
    kernel._load.cache_clear()
    yield
    kernel._load.cache_clear()


@pytest.mark.usefixtures("clear_caches")
@pytest.mark.parametrize("symbol", ["aoti_torch_cpu__weight_int8pack_mm", "sgemm_", "MKL_Set_Num_Threads_Local"])
def test_a_library_without_a_symbol_is_no_kernel(symbol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeLibrary(symbol)
    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", lambda _: library)
        with pytest.raises(KernelUnavailable, match=symbol):
            Int8Product(kernel.allocate((1, 64), np.int8), np.ones(1, np.float32))
        with pytest.raises(KernelUnavailable, match=symbol):
            kernel.use_threads()
    kernel._load.cache_clear()
    product = Int8Product(kernel.allocate((4, 64), np.int8), np.ones(4, np.float32))
    assert product(np.ones((1, 64), np.float32)).shape == (1, 4)


def test_arguments_that_do_not_fit_are_refused() -> None:
    product = Int8Product(kernel.allocate((4, 64), np.int8), np.ones(4, np.float32))
    with pytest.raises(KernelUnavailable, match="refuses"):
        product(np.zeros((1, 32), np.float32))
