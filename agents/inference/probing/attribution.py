"""Attributes a model's answer to neurons of its gates, by integrated gradients (arXiv 1703.01365).

As KnowBias (arXiv 2601.21864) does it after knowledge neurons (arXiv 2104.08696): at the last token of the prompt the
activations of one gate go from zero to what they are in ``steps`` equal steps; a neuron's attribution is its activation
times the mean gradient of the answer's probability over these steps. Arrays are (gates, neurons) in float32.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import ArraysCache, ConcatenateKVCache, KVCache, make_prompt_cache

from agents.inference.knowbias.gates import GateProjection

STEPS = 20
"""Steps in KnowBias's paper."""


class _Tap(nn.Module):  # type: ignore[misc]
    """Around a gate: remembers the gate's activations, and can put others in their place."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base = base
        self._activations: list[mx.array] = []
        self._replacement: list[mx.array] = []

    def __call__(self, x: mx.array) -> mx.array:
        y: mx.array = self.base(x)
        self._activations[:] = [y]
        return self._replacement[0] if self._replacement else y

    @property
    def activations(self) -> mx.array:
        """The gate's own last activations, (rows, tokens, neurons)."""
        return self._activations[0]

    def replace_output(self, *replacement: mx.array) -> None:
        """From now on return ``replacement`` instead of the gate's output; without one, the gate's own activations."""
        self._replacement[:] = replacement


class Attribution:
    """Attributes a model's answers to neurons of ``gates``, all of one width.

    Changes the model while a call lasts and leaves it as it was. ``at_once``: steps in one batch, which bounds the
    memory: a batch holds the caches of that many rows.
    """

    def __init__(
        self, model: Any, gates: Sequence[GateProjection], *, steps: int = STEPS, at_once: int = STEPS
    ) -> None:
        self._model, self._gates, self._steps, self._at_once = model, tuple(gates), steps, at_once
        modules = dict(model.named_modules())
        self._parents = [modules[gate.path.rpartition(".")[0]] for gate in self._gates]

    def __call__(
        self, tokens: Sequence[int], answer: int, *, on_advance: Callable[[], None] = lambda: None
    ) -> mx.array:
        """Attributions of ``answer`` (a token id) as what follows ``tokens``; ``on_advance`` is called for each
        gate."""
        taps = [_Tap(parent["gate_proj"]) for parent in self._parents]
        training = self._model.training
        for parent, tap in zip(self._parents, taps, strict=True):
            parent["gate_proj"] = tap
        self._model.train()  # in training, recurrent layers avoid a kernel that has no gradient
        try:
            return self._attribute(list(tokens), answer, taps, on_advance)
        finally:
            self._model.train(training)
            for parent, tap in zip(self._parents, taps, strict=True):
                parent["gate_proj"] = tap.base

    def _attribute(self, tokens: list[int], answer: int, taps: list[_Tap], on_advance: Callable[[], None]) -> mx.array:
        cache = make_prompt_cache(self._model)
        if tokens[:-1]:
            self._model(mx.array([tokens[:-1]]), cache=cache)
            mx.eval([layer.state for layer in cache])
        last = mx.array([tokens[-1:]])
        self._model(last, cache=_widen_cache(cache, upto=len(cache), rows=1))
        full = [tap.activations for tap in taps]
        mx.eval(full)
        attributions = []
        for gate, tap, activations in zip(self._gates, taps, full, strict=True):
            mean = self._mean_gradient(gate, tap, activations, last, cache, answer)
            attributions.append((activations * mean).astype(mx.float32).reshape(-1))
            mx.eval(attributions[-1])
            on_advance()
        return mx.stack(attributions)

    def _mean_gradient(
        self, gate: GateProjection, tap: _Tap, full: mx.array, last: mx.array, cache: list[Any], answer: int
    ) -> mx.array:
        def probability(activations: mx.array) -> mx.array:
            tap.replace_output(activations)
            logits = self._model(last, cache=_widen_cache(cache, upto=gate.layer + 1, rows=activations.shape[0]))
            return mx.softmax(logits[:, -1].astype(mx.float32), axis=-1)[:, answer].sum()

        total = mx.zeros_like(full)
        shares = mx.linspace(0.0, 1.0, self._steps).astype(full.dtype)[:, None, None]
        for start in range(0, self._steps, self._at_once):
            total = total + mx.grad(probability)(shares[start : start + self._at_once] * full).sum(axis=0)
            mx.eval(total)
        tap.replace_output()
        return total / self._steps


def _widen_cache(cache: Sequence[Any], *, upto: int, rows: int) -> list[Any]:
    """A one-row cache for a pass that widens to ``rows`` rows at a gate: layers from number ``upto`` on have all rows.

    Below the gate all steps are equal, so one row is computed there. Nothing is copied before a layer needs it.
    """
    return [_repeat_rows(layer, 1 if number < upto else rows) for number, layer in enumerate(cache)]


def _repeat_rows(layer: Any, rows: int) -> Any:
    def broadcast(array: mx.array) -> mx.array:
        return mx.broadcast_to(array, (rows, *array.shape[1:]))

    if isinstance(layer, KVCache) and not layer.empty():
        wide_layer = ConcatenateKVCache()
        wide_layer.state = tuple(broadcast(array) for array in layer.keys_and_values())
        return wide_layer
    if isinstance(layer, ArraysCache):
        wide_layer = ArraysCache(len(layer.cache))
        wide_layer.cache = [None if array is None else broadcast(array) for array in layer.cache]
        return wide_layer
    return layer.merge([layer] * rows)
