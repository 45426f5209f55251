"""Layers with int8 weights, in the places of MLX's linear layers, embeddings and heads.

A layer that serves computes at once, outside MLX. In training mode it widens its weights in MLX when the result is
read, so that gradients pass to its input; the weights are frozen.
"""

from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from agents.inference.int8.kernel import ALIGNMENT, INPUTS, Floats, Int8Product, is_aligned, multiply_floats

WIDEN_FROM = 32
"""Tokens from which on a float32 product of widened weights is faster than the int8 kernel."""

WIDE_NUMBERS = 4 * 1024**2
"""Weights that are widened at once: 16 MB of float32, which a processor's cache holds."""

SHARPENED = 64
"""Logits of each token that are computed in full precision, the largest ones."""


REMAINDER_STEP = 1 / 254
"""The step of the remainders in steps of the numbers: 127 of it are half a step."""


@dataclass(frozen=True, kw_only=True)
class Int8Matrix:
    """Weights as ``numbers`` (outputs, inputs) in int8, times ``scales`` (outputs,) and ``factors`` (inputs,).

    Numbers are aligned (:func:`align`). Scales are float32 numbers that bfloat16 holds exactly. ``remainders``
    (outputs, inputs) in int8 are what the rounding left out of the numbers, in steps of ``REMAINDER_STEP``; embeddings
    and heads have them, whose rows are also read one by one.
    """

    numbers: mx.array
    scales: mx.array
    factors: mx.array
    remainders: mx.array | None = None

    def split(self, sizes: list[int]) -> "list[Int8Matrix]":
        """Matrices of so many outputs each, in the same memory."""
        ends = np.cumsum(sizes).tolist()
        parts = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        rest = self.remainders
        return [
            replace(
                self,
                numbers=align(self.numbers[part]),
                scales=self.scales[part],
                remainders=None if rest is None else rest[part],
            )
            for part in parts
        ]

    def widen(self, rows: Any = ...) -> mx.array:
        """The weights of ``rows`` (all without) in float32, as exact as they are held."""
        numbers = self.numbers[rows].astype(mx.float32)
        if self.remainders is not None:
            numbers += self.remainders[rows].astype(mx.float32) * REMAINDER_STEP
        return numbers * self.scales[rows][..., None] * self.factors


def align(numbers: mx.array) -> mx.array:
    """``numbers`` where the kernel may read them: MLX's own memory begins eight bytes behind what it is given."""
    mx.eval(numbers)
    if is_aligned(np.asarray(numbers)):
        return numbers
    room = mx.zeros(numbers.size + ALIGNMENT, numbers.dtype)
    mx.eval(room)
    start = -np.asarray(room).ctypes.data % ALIGNMENT
    aligned = room[start : start + numbers.size].reshape(numbers.shape)
    mx.eval(aligned)  # a view of the room
    np.asarray(aligned)[...] = np.asarray(numbers)
    return aligned


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
        self._remainders = None if matrix.remainders is None else np.asarray(matrix.remainders)
        fits = self._numbers.shape[1] % INPUTS == 0
        self._kernel = Int8Product(self._numbers, self._scales) if fits else None

    def multiply(self, tokens: Floats) -> Floats:
        """``tokens`` (tokens, inputs) times the transposed weights, (tokens, outputs)."""
        return self.multiply_scaled(tokens * self.factors)

    def multiply_scaled(self, tokens: Floats) -> Floats:
        """Like :meth:`multiply`, of tokens that were multiplied by :attr:`factors` already."""
        if self._kernel is not None and len(tokens) < WIDEN_FROM:
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
        """Like :meth:`multiply`, with the largest outputs of each token in full precision, remainders included: several
        of the largest logits may round to the same bfloat16 number."""
        tokens = tokens * self.factors
        product = self.multiply_scaled(tokens)
        for row, token in zip(product, tokens, strict=True):
            best = np.argpartition(row, -SHARPENED)[-SHARPENED:] if len(row) > SHARPENED else np.arange(len(row))
            row[best] = (self._read_rows(best) @ token) * self._scales[best]
        return product

    def _read_rows(self, rows: NDArray[np.intp]) -> Floats:
        """Rows of the matrix as exact as they are held, without scales and factors."""
        numbers: Floats = self._numbers[rows].astype(np.float32)
        if self._remainders is not None:
            numbers += self._remainders[rows] * np.float32(REMAINDER_STEP)
        return numbers

    def multiply_wide(self, x: mx.array) -> mx.array:
        """``x`` (..., inputs) times the transposed weights, computed by MLX when the result is read; differentiable."""
        matrix, x = self.matrix, x * self.matrix.factors
        product: Any = _multiply_wide(x, matrix.numbers, matrix.scales)
        if matrix.remainders is not None:
            product += _multiply_wide(x, matrix.remainders, matrix.scales * REMAINDER_STEP)
        exact: mx.array = product
        return exact


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
        return self.product.matrix.widen()

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
        return self.product.matrix.widen(x)

    def as_linear(self, x: mx.array) -> mx.array:
        """``x``: (rows, tokens, width) to logits."""
        return self._make_logits(x)
