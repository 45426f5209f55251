"""Layers with int8 weights, in the places of MLX's linear layers, embeddings and heads.

A layer that serves computes at once, outside MLX. In training mode it widens its weights in MLX when the result is
read, so that gradients pass to its input; the weights are frozen.
"""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from agents.inference.int8.kernel import Floats, Int8Product, multiply_floats

WIDEN_FROM = 32
"""Tokens from which on a float32 product of widened weights is faster than the int8 kernel."""

WIDE_NUMBERS = 4 * 1024**2
"""Weights that are widened at once: 16 MB of float32, which a processor's cache holds."""

SHARPENED = 64
"""Logits of each token that are computed in full precision, the largest ones."""


@dataclass(frozen=True, kw_only=True)
class Int8Matrix:
    """Weights as ``numbers`` (outputs, inputs) in int8, times ``scales`` (outputs,) and ``factors`` (inputs,).

    Scales are float32 numbers that bfloat16 holds exactly.
    """

    numbers: mx.array
    scales: mx.array
    factors: mx.array

    def split(self, sizes: list[int]) -> "list[Int8Matrix]":
        """Matrices of so many outputs each, in the same memory."""
        ends = np.cumsum(sizes).tolist()
        parts = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        return [
            Int8Matrix(numbers=self.numbers[part], scales=self.scales[part], factors=self.factors) for part in parts
        ]


@mx.custom_function
def _multiply_wide(x: mx.array, numbers: mx.array, scales: mx.array) -> mx.array:
    return (x @ numbers.astype(mx.float32).T) * scales


@_multiply_wide.vjp
def _multiply_back(primals: Any, cotangent: mx.array, _: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """Widens the weights again, so that only int8 is kept between the forward and the backward pass."""
    _, numbers, scales = primals
    return (cotangent * scales) @ numbers.astype(mx.float32), mx.zeros_like(numbers), mx.zeros_like(scales)


class Product:
    """The products of a matrix, by NumPy and the kernel or by MLX, over the same memory."""

    def __init__(self, matrix: Int8Matrix) -> None:
        mx.eval(matrix.numbers, matrix.scales, matrix.factors)
        self.matrix, self.factors = matrix, np.asarray(matrix.factors)
        self._numbers, self._scales = np.asarray(matrix.numbers), np.asarray(matrix.scales)
        self._kernel = Int8Product(self._numbers, self._scales)

    def multiply(self, tokens: Floats) -> Floats:
        """``tokens`` (tokens, inputs) times the transposed weights, (tokens, outputs)."""
        return self.multiply_scaled(tokens * self.factors)

    def multiply_scaled(self, tokens: Floats) -> Floats:
        """Like :meth:`multiply`, of tokens that were multiplied by :attr:`factors` already."""
        if len(tokens) < WIDEN_FROM:
            return self._kernel(tokens)
        outputs, inputs = self._numbers.shape
        tokens, step = np.ascontiguousarray(tokens), max(1, WIDE_NUMBERS // inputs)
        result, room = np.empty((len(tokens), outputs), np.float32), np.empty((step, inputs), np.float32)
        for start in range(0, outputs, step):
            part = self._numbers[start : start + step]
            wide = room[: len(part)]
            wide[...] = part
            multiply_floats(tokens, wide, result, begin=start)
        result *= self._scales
        return result

    def multiply_sharp(self, tokens: Floats) -> Floats:
        """Like :meth:`multiply`, with the largest outputs of each token in full precision: several of the largest
        logits may round to the same bfloat16 number."""
        tokens = tokens * self.factors
        product = self.multiply_scaled(tokens)
        for row, token in zip(product, tokens, strict=True):
            best = np.argpartition(row, -SHARPENED)[-SHARPENED:] if len(row) > SHARPENED else np.arange(len(row))
            row[best] = (self._numbers[best] @ token) * self._scales[best]
        return product

    def multiply_wide(self, x: mx.array) -> mx.array:
        """``x`` (..., inputs) times the transposed weights, computed by MLX when the result is read; differentiable."""
        y: Any = _multiply_wide(x * self.matrix.factors, self.matrix.numbers, self.matrix.scales)
        product: mx.array = y
        return product


class _Int8Weights:
    """What the layers below share: ``weight`` is what MLX and adapters see of the matrix."""

    training: bool

    def __init__(self, matrix: Int8Matrix) -> None:
        nn.Module.__init__(self)  # not the layer's own, which would draw random weights
        self.weight = matrix.numbers
        self.product = Product(matrix)

    @property
    def wide_weight(self) -> mx.array:
        """The weights in float32, (outputs, inputs)."""
        matrix = self.product.matrix
        return matrix.numbers.astype(mx.float32) * matrix.scales[:, None] * matrix.factors

    def _make_logits(self, x: mx.array) -> mx.array:
        """Logits of ``x`` (rows, tokens, inputs). Those of a prompt are computed only when they are read."""
        if self.training or x.shape[1] > 1:
            return self.product.multiply_wide(x)
        return mx.array(self.product.multiply_sharp(np.asarray(x)[:, 0])[:, None])


class Int8Linear(_Int8Weights, nn.Linear):  # type: ignore[misc]
    """A linear layer, with a ``bias`` (outputs,) or none."""

    def __init__(self, matrix: Int8Matrix, bias: mx.array | None = None) -> None:
        super().__init__(matrix)
        if bias is not None:
            self.bias = bias.astype(mx.float32)

    def __call__(self, x: mx.array) -> mx.array:
        """``x``: (..., inputs) in float32."""
        if self.training:
            y = self.product.multiply_wide(x)
        else:
            y = mx.array(self.product.multiply(np.asarray(x).reshape(-1, x.shape[-1]))).reshape(*x.shape[:-1], -1)
        return y + self.bias if "bias" in self else y


class Int8Head(_Int8Weights, nn.Linear):  # type: ignore[misc]
    """The linear layer that makes a model's logits."""

    def __call__(self, x: mx.array) -> mx.array:
        """``x``: (rows, tokens, inputs) in float32."""
        return self._make_logits(x)


class Int8Embedding(_Int8Weights, nn.Embedding):  # type: ignore[misc]
    """An embedding, which may be the head as well."""

    def __call__(self, x: mx.array) -> mx.array:
        """``x``: token ids (rows, tokens)."""
        matrix = self.product.matrix
        return matrix.numbers[x].astype(mx.float32) * matrix.scales[x][..., None] * matrix.factors

    def as_linear(self, x: mx.array) -> mx.array:
        """``x``: (rows, tokens, width) to logits."""
        return self._make_logits(x)
