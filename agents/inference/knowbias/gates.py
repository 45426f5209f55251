"""Finds a model's gates: the ``gate_proj`` of each MLP that all tokens pass, shared experts included.

A neuron is one output of a gate. The gates of routed experts are left out: a token passes only a few of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.nn as nn

ENDINGS = ("mlp.gate_proj", "mlp.shared_expert.gate_proj")
"""Paths of the gates within a layer, in mlx-lm's dense and mixture-of-experts models."""


@dataclass(frozen=True, kw_only=True)
class GateProjection:
    """One gate: its ``path`` in the model, the number of its ``layer`` and how many neurons it has."""

    path: str
    layer: int
    width: int


def gates(model: Any) -> tuple[GateProjection, ...]:
    """The gates of ``model``, from the first layer to the last; none when its layers have no such modules."""
    layers = {id(layer): number for number, layer in enumerate(model.layers)}
    return tuple(_find_gates(model, layers))


def _find_gates(model: Any, layers: dict[int, int]) -> Iterator[GateProjection]:
    modules = dict(model.named_modules())
    layer_numbers = {path: layers[id(module)] for path, module in modules.items() if id(module) in layers}
    for prefix, layer in sorted(layer_numbers.items(), key=lambda item: item[1]):
        for ending in ENDINGS:
            module = modules.get(f"{prefix}.{ending}")
            if isinstance(module, (nn.Linear, nn.QuantizedLinear)):
                yield GateProjection(path=f"{prefix}.{ending}", layer=layer, width=int(module.weight.shape[0]))
