"""KnowBias's enhancement (arXiv 2601.21864): a factor on some neurons of the gates, for the rows that ask for it.

Rows of one batch may differ: each carries its factor with its cache (:mod:`agents.inference.adapters.mixed`). A row
whose factor is one is multiplied by one, which changes no bit; a batch of such rows is not multiplied at all.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from agents.inference.adapters.mixed import Rows
from agents.inference.adapters.modules import ModulePlaces
from agents.inference.knowbias.neurons import Neurons


class EnhancedGate(nn.Module):  # type: ignore[misc]
    """Covers a gate. ``mask``: (neurons,) of booleans, true for the neurons that the factor multiplies."""

    base: Any

    def __init__(self, mask: mx.array, rows: Rows) -> None:
        super().__init__()
        self._mask, self._rows = mask, rows

    def __call__(self, x: mx.array) -> mx.array:
        """``x``: (rows, tokens, inputs)."""
        y: mx.array = self.base(x)
        factors = self._rows.factors
        return y if factors is None else y * mx.where(self._mask, factors[:, None, None], 1.0).astype(y.dtype)


def enhance(places: ModulePlaces, neurons: Neurons, rows: Rows) -> None:
    """Cover the gates of ``neurons``, so that each row's factor multiplies their activations in that row."""
    for path, indices in neurons.gates.items():
        mask = mx.zeros((places.base[path].weight.shape[0],), mx.bool_)
        mask[mx.array(indices)] = True
        places.cover(path, EnhancedGate(mask, rows))
