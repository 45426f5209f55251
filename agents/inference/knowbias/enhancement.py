"""KnowBias's enhancement (arXiv 2601.21864): a factor on what some neurons of the gates say, for the rows that want it.

Rows of one batch may differ: each carries its factor with its cache (:mod:`agents.inference.adapters.mixed`). A row
whose factor is one is multiplied by one, which changes no bit; a batch of such rows is not multiplied at all.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from agents.inference.adapters.mixed import Rows
from agents.inference.adapters.modules import Places
from agents.inference.knowbias.neurons import Neurons


class Enhanced(nn.Module):  # type: ignore[misc]
    """Over a gate. ``chosen``: (neurons,) of booleans."""

    base: Any

    def __init__(self, chosen: mx.array, rows: Rows) -> None:
        super().__init__()
        self._chosen, self._rows = chosen, rows

    def __call__(self, x: mx.array) -> mx.array:
        """``x``: (rows, tokens, inputs)."""
        y: mx.array = self.base(x)
        factors = self._rows.factors
        return y if factors is None else y * mx.where(self._chosen, factors[:, None, None], 1.0).astype(y.dtype)


def enhance(places: Places, neurons: Neurons, rows: Rows) -> None:
    """Cover the gates of ``neurons``, so that they say as many times as much as the factor of each row."""
    for path, indices in neurons.gates.items():
        chosen = mx.zeros((places.base[path].weight.shape[0],), mx.bool_)
        chosen[mx.array(indices)] = True
        places.cover(path, Enhanced(chosen, rows))
