"""Layers with int8 weights: their products, logits and gradients, against the weights they hold."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from agents.inference.int8 import layers
from agents.inference.int8.conversion import quantise
from agents.inference.int8.kernel import Floats
from agents.inference.int8.layers import (
    SHARPENED,
    WIDEN_FROM,
    Int8Embedding,
    Int8Head,
    Int8Linear,
    Int8Matrix,
    Product,
    align,
)

OUTPUTS, INPUTS = 300, 96


def new_floats(*shape: int, seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def new_matrix(outputs: int = OUTPUTS, inputs: int = INPUTS, seed: int = 0) -> Int8Matrix:
    return quantise([mx.array(new_floats(outputs, inputs, seed=seed))])


def widen(matrix: Int8Matrix) -> Any:
    """The weights in double precision."""
    numbers, scales, factors = (np.array(part) for part in (matrix.numbers, matrix.scales, matrix.factors))
    return numbers * scales[:, None].astype(np.float64) * factors


@pytest.mark.parametrize("tokens", [1, WIDEN_FROM - 1, WIDEN_FROM, WIDEN_FROM + 9])
def test_few_tokens_and_many_have_the_same_product(tokens: int) -> None:
    matrix, x = new_matrix(), new_floats(tokens, INPUTS, seed=1)
    product, exact = Product(matrix).multiply(x), x @ widen(matrix).T
    sizes = np.abs(x) @ np.abs(widen(matrix)).T
    # bfloat16 rounds the tokens and the result by 2**-8
    unit = 2.0**-7 if tokens < WIDEN_FROM else 1e-6
    assert (np.abs(product - exact) <= unit * sizes).all()


def test_weights_are_widened_in_parts_that_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, x = new_matrix(), new_floats(WIDEN_FROM, INPUTS, seed=1)
    whole = Product(matrix).multiply(x)
    monkeypatch.setattr(layers, "WIDE_NUMBERS", 7 * INPUTS)  # 300 outputs are no multiple of 7
    np.testing.assert_allclose(Product(matrix).multiply(x), whole, rtol=1e-5, atol=1e-5)


def test_tokens_of_a_slice_are_multiplied_like_others() -> None:
    product, x = Product(new_matrix()), new_floats(WIDEN_FROM, 2 * INPUTS, seed=1)[:, :INPUTS]
    np.testing.assert_array_equal(product.multiply_scaled(x), product.multiply_scaled(x.copy()))


@pytest.mark.parametrize("outputs", [SHARPENED // 2, SHARPENED, 5000])
def test_the_largest_logits_are_in_full_precision(outputs: int) -> None:
    matrix, x = new_matrix(outputs), new_floats(3, INPUTS, seed=2)
    exact = x @ widen(matrix).T
    sharp, blunt = Product(matrix).multiply_sharp(x), Product(matrix).multiply(x)
    best = np.argsort(exact, axis=1)[:, -min(outputs, SHARPENED // 2) :]
    largest = np.take_along_axis(exact, best, axis=1)
    np.testing.assert_allclose(np.take_along_axis(sharp, best, axis=1), largest, rtol=1e-5, atol=1e-4)
    assert np.abs(np.take_along_axis(blunt, best, axis=1) - largest).max() > 1e-2


def test_sharp_logits_keep_the_order_of_weights_that_bfloat16_cannot_tell_apart() -> None:
    numbers = np.full((500, INPUTS), 1, np.int8)
    numbers[:, :50], numbers[123, :50], numbers[321, :50] = 100, 127, 127
    numbers[123, 50] = 2  # 6,397 against 6,396: bfloat16 counts in steps of 32 here
    matrix = Int8Matrix(numbers=align(mx.array(numbers)), scales=mx.ones(500), factors=mx.ones(INPUTS))
    x = np.ones((2, INPUTS), np.float32)
    product = Product(matrix)
    assert product.multiply(x)[0, 123] == product.multiply(x)[0, 321]
    assert product.multiply_sharp(x).argmax(axis=1).tolist() == [123, 123]
    assert product.multiply_sharp(x)[1, 123] == product.multiply_sharp(x)[1, 321] + 1


def test_a_layer_whose_inputs_the_kernel_cannot_read_is_multiplied_all_the_same() -> None:
    matrix, x = new_matrix(inputs=40), new_floats(3, 40, seed=1)
    np.testing.assert_allclose(Product(matrix).multiply(x), x @ widen(matrix).T, rtol=1e-4, atol=1e-4)


def test_weights_of_layers_that_share_a_matrix_begin_where_the_kernel_can_read_them() -> None:
    matrix, x = new_matrix(outputs=9, inputs=48), new_floats(5, 48, seed=1)
    together = Product(matrix).multiply(x)
    apart = [Product(part).multiply(x) for part in matrix.split([3, 5, 1])]
    np.testing.assert_allclose(np.concatenate(apart, axis=1), together, rtol=1e-2, atol=1e-2)


def test_with_remainders_the_largest_logits_and_the_rows_are_those_of_the_weights_before_rounding() -> None:
    weights, x = new_floats(5000, INPUTS, seed=0), new_floats(3, INPUTS, seed=2)
    matrix = quantise([mx.array(weights)], exact=True)
    exact = x @ weights.T
    best = np.argsort(exact, axis=1)[:, -SHARPENED // 2 :]
    sharp, largest = Product(matrix).multiply_sharp(x), np.take_along_axis(exact, best, axis=1)
    np.testing.assert_allclose(np.take_along_axis(sharp, best, axis=1), largest, atol=3e-3)
    rounded = np.take_along_axis(Product(new_matrix(5000)).multiply_sharp(x), best, axis=1)
    assert np.abs(rounded - largest).max() > 3e-2
    rows = mx.array([[4, 4999], [0, 17]])
    np.testing.assert_allclose(Int8Embedding(matrix)(rows), weights[np.array(rows)], atol=3e-4)


def test_the_argmax_is_that_of_the_exact_product() -> None:
    matrix, x = new_matrix(5000), new_floats(31, INPUTS, seed=3)
    assert (Product(matrix).multiply_sharp(x).argmax(axis=1) == (x @ widen(matrix).T).argmax(axis=1)).all()


@pytest.mark.parametrize("has_bias", [False, True])
def test_a_gradient_through_a_layer_is_that_of_the_widened_layer(has_bias: bool) -> None:
    bias = mx.array(new_floats(OUTPUTS, seed=5)) if has_bias else None
    layer, dense = Int8Linear(new_matrix(), bias), nn.Linear(INPUTS, OUTPUTS, bias=has_bias)
    dense.weight = layer.wide_weight
    if has_bias:
        dense.bias = bias
    layer.train()
    x, weighting = mx.array(new_floats(2, 7, INPUTS, seed=4)), mx.array(new_floats(2, 7, OUTPUTS, seed=6))

    def slope(module: Any) -> tuple[mx.array, mx.array]:
        value, gradient = mx.value_and_grad(lambda tokens: (mx.tanh(module(tokens) / 10) * weighting).sum())(x)
        return value, gradient

    (value, gradient), (expected_value, expected) = slope(layer), slope(dense)
    assert value.item() == pytest.approx(expected_value.item(), rel=1e-4)
    assert float(mx.abs(expected).max()) > 0.1
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


def test_a_gradient_reaches_what_comes_before_a_stack_of_layers() -> None:
    first, second = Int8Linear(new_matrix(64, INPUTS)), Int8Linear(new_matrix(OUTPUTS, 64, seed=1))
    first.train()
    second.train()
    x = mx.array(new_floats(3, INPUTS, seed=4))
    gradient = mx.grad(lambda tokens: second(first(tokens)).sum())(x)
    expected = np.ones((3, OUTPUTS)) @ widen(second.product.matrix) @ widen(first.product.matrix)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)


def test_a_layer_that_serves_keeps_the_shape_and_adds_its_bias() -> None:
    bias = mx.array(new_floats(OUTPUTS, seed=5))
    plain, layer, x = (
        Int8Linear(new_matrix()),
        Int8Linear(new_matrix(), bias),
        mx.array(new_floats(2, 5, INPUTS, seed=4)),
    )
    plain.eval()
    layer.eval()
    assert layer(x).shape == (2, 5, OUTPUTS)
    np.testing.assert_array_equal(layer(x), plain(x) + bias)


def test_heads_and_embeddings_make_the_same_logits() -> None:
    matrix, x = new_matrix(2000), mx.array(new_floats(2, 6, INPUTS, seed=4))
    head, embedding = Int8Head(matrix), Int8Embedding(matrix)
    head.eval()
    embedding.eval()
    whole = head(x)
    np.testing.assert_allclose(whole, np.array(x) @ widen(matrix).T, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(whole, embedding.as_linear(x))
    last = np.array(head(x[:, -1:]))
    np.testing.assert_array_equal(last, embedding.as_linear(x[:, -1:]))
    assert last.shape == (2, 1, 2000)
    assert (last.argmax(-1) == np.array(whole[:, -1:]).argmax(-1)).all()


def test_an_embedding_gives_its_tokens_rows() -> None:
    embedding, tokens = Int8Embedding(new_matrix()), mx.array([[3, 299], [0, 3]])
    np.testing.assert_array_equal(embedding(tokens), embedding.wide_weight[tokens])
    np.testing.assert_allclose(embedding.wide_weight, widen(embedding.product.matrix), rtol=1e-6)


def test_weights_are_held_once() -> None:
    matrix = new_matrix()
    whole, parts = Product(matrix), matrix.split([100, 60, 140])
    siblings = [Int8Linear(part) for part in parts]
    rows = np.split(whole._numbers, [100, 160])
    for sibling, part in zip(siblings, rows, strict=True):
        assert np.shares_memory(np.asarray(sibling.weight), sibling.product._numbers)
        assert np.shares_memory(sibling.product._numbers, part)
        assert sibling.product._numbers.ctypes.data == part.ctypes.data
        assert sibling.product._kernel is not None
        assert sibling.product._kernel._weight.array is sibling.product._numbers
    assert whole._kernel is not None
    assert whole._kernel._weight.array.ctypes.data == np.asarray(matrix.numbers).ctypes.data
    x = new_floats(4, INPUTS, seed=1)
    together = np.concatenate([sibling.product.multiply(x) for sibling in siblings], axis=1)
    np.testing.assert_array_equal(together, whole.multiply(x))
