"""Attention of one new token a row, outside MLX, over the keys and values in MLX's memory.

Waiting for MLX in every block would cost a decoding step as much as a fifth of its products.
"""

from typing import Any

import mlx.nn as nn
import numpy as np

from agents.inference.int8.kernel import Floats


class Rotary:
    """The rotary position embedding of ``rope``, whose halves are the pairs (``traditional`` False).

    All blocks of a pass rotate by the same angles: those of the last positions are kept.
    """

    def __init__(self, rope: nn.RoPE) -> None:
        exponents = np.arange(0, rope.dims, 2, dtype=np.float64) / rope.dims
        self._frequencies = rope.scale * rope.base**-exponents
        self._positions: tuple[int, ...] = ()
        self._angles: tuple[Floats, Floats] = (np.empty(0, np.float32), np.empty(0, np.float32))

    @staticmethod
    def fits(rope: Any, width: int) -> bool:
        """Whether ``rope`` is of this kind and turns heads of ``width`` whole."""
        return type(rope) is nn.RoPE and not rope.traditional and rope.dims == width

    def rotate(self, heads: Floats, positions: tuple[int, ...]) -> Floats:
        """``heads`` (rows, heads, width), one token a row at ``positions``."""
        if positions != self._positions:
            angles = np.array(positions)[:, None] * self._frequencies
            self._angles = np.cos(angles)[:, None].astype(np.float32), np.sin(angles)[:, None].astype(np.float32)
            self._positions = positions
        cosines, sines = self._angles
        half = heads.shape[-1] // 2
        first, second = heads[..., :half], heads[..., half:]
        return np.concatenate([first * cosines - second * sines, second * cosines + first * sines], axis=-1)


def attend(queries: Floats, keys: Floats, values: Floats, lengths: tuple[int, ...], *, scale: float) -> Floats:
    """Attention of ``queries`` (rows, heads, width) to ``keys`` and ``values`` (rows, pairs, slots, width).

    ``lengths``: how many of its last slots each row uses. Returns (rows, heads * width).
    """
    rows, heads, width = queries.shape
    pairs, slots = keys.shape[1:3]
    grouped = (queries * np.float32(scale)).reshape(rows, pairs, heads // pairs, width)
    scores = grouped @ keys.swapaxes(-1, -2)
    if min(lengths) < slots:
        unused = np.arange(slots) < slots - np.array(lengths)[:, None]
        scores = np.where(unused[:, None, None], -np.inf, scores)
    scores -= scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores, out=scores)
    weights /= weights.sum(axis=-1, keepdims=True)
    output: Floats = weights @ values
    return output.reshape(rows, heads * width)
