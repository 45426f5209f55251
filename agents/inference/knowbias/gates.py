"""Gates of a model: the ``gate_proj`` of each MLP that every token passes, the shared expert's included.

A neuron is one output of a gate. The gates of routed experts are none of ours: a token passes a few of them only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.nn as nn

ENDINGS = ("mlp.gate_proj", "mlp.shared_expert.gate_proj")
"""Where mlx-lm's dense and mixture models have them, within a layer."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One gate: its ``path`` in the model, the number of its ``layer`` and how many neurons it has."""

    path: str
    layer: int
    width: int


def gates(model: Any) -> tuple[Gate, ...]:
    """The gates of ``model``, from the first layer to the last; none when it is built otherwise."""
    layers = {id(layer): number for number, layer in enumerate(model.layers)}
    return tuple(_found(model, layers))


def _found(model: Any, layers: dict[int, int]) -> Iterator[Gate]:
    modules = dict(model.named_modules())
    of_layer = {path: layers[id(module)] for path, module in modules.items() if id(module) in layers}
    for prefix, layer in sorted(of_layer.items(), key=lambda item: item[1]):
        for ending in ENDINGS:
            module = modules.get(f"{prefix}.{ending}")
            if isinstance(module, (nn.Linear, nn.QuantizedLinear)):
                yield Gate(path=f"{prefix}.{ending}", layer=layer, width=int(module.weight.shape[0]))
