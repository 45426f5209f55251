"""Which neurons of the gates make a model give an answer: integrated gradients (arXiv 1703.01365).

As KnowBias (arXiv 2601.21864) does it after knowledge neurons (arXiv 2104.08696): at the last token of the prompt the
activations of one gate go from zero to what they are in ``steps`` equal steps; a neuron's attribution is its activation
times the mean gradient of the answer's probability on that way. Arrays are (gates, neurons) in float32.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import ArraysCache, ConcatenateKVCache, KVCache, make_prompt_cache

from agents.inference.knowbias.gates import Gate

STEPS = 20
"""Steps of the paper."""


class _Tap(nn.Module):  # type: ignore[misc]
    """Around a gate: remembers what the gate says, or says something else instead."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base = base
        self._said: list[mx.array] = []
        self._instead: list[mx.array] = []

    def __call__(self, x: mx.array) -> mx.array:
        y: mx.array = self.base(x)
        self._said[:] = [y]
        return self._instead[0] if self._instead else y

    @property
    def said(self) -> mx.array:
        """The gate's own last activations, (rows, tokens, neurons)."""
        return self._said[0]

    def say(self, *instead: mx.array) -> None:
        """From now on give this in the gate's place; nothing: the gate's own."""
        self._instead[:] = instead


class Attribution:
    """Attributes a model's answers to neurons of ``gates``, all of one width.

    Changes the model while a call lasts and leaves it as it was. ``at_once``: steps in one batch, which bounds the
    memory: a batch holds the caches of that many rows.
    """

    def __init__(self, model: Any, gates: Sequence[Gate], *, steps: int = STEPS, at_once: int = STEPS) -> None:
        self._model, self._gates, self._steps, self._at_once = model, tuple(gates), steps, at_once
        modules = dict(model.named_modules())
        self._parents = [modules[gate.path.rpartition(".")[0]] for gate in self._gates]

    def __call__(self, tokens: Sequence[int], answer: int, *, advanced: Callable[[], None] = lambda: None) -> mx.array:
        """Attributions of ``answer`` (a token id) as what follows ``tokens``; ``advanced`` is called for each gate."""
        taps = [_Tap(parent["gate_proj"]) for parent in self._parents]
        training = self._model.training
        for parent, tap in zip(self._parents, taps, strict=True):
            parent["gate_proj"] = tap
        self._model.train()  # recurrent layers have a kernel without a gradient, and leave it aside in training
        try:
            return self._attributed(list(tokens), answer, taps, advanced)
        finally:
            self._model.train(training)
            for parent, tap in zip(self._parents, taps, strict=True):
                parent["gate_proj"] = tap.base

    def _attributed(self, tokens: list[int], answer: int, taps: list[_Tap], advanced: Callable[[], None]) -> mx.array:
        cache = make_prompt_cache(self._model)
        if tokens[:-1]:
            self._model(mx.array([tokens[:-1]]), cache=cache)
            mx.eval([layer.state for layer in cache])
        last = mx.array([tokens[-1:]])
        self._model(last, cache=_wide(cache, upto=len(cache), rows=1))
        full = [tap.said for tap in taps]
        mx.eval(full)
        found = []
        for gate, tap, activations in zip(self._gates, taps, full, strict=True):
            mean = self._mean_gradient(gate, tap, activations, last, cache, answer)
            found.append((activations * mean).astype(mx.float32).reshape(-1))
            mx.eval(found[-1])
            advanced()
        return mx.stack(found)

    def _mean_gradient(
        self, gate: Gate, tap: _Tap, full: mx.array, last: mx.array, cache: list[Any], answer: int
    ) -> mx.array:
        def probability(scaled: mx.array) -> mx.array:
            tap.say(scaled)
            logits = self._model(last, cache=_wide(cache, upto=gate.layer + 1, rows=scaled.shape[0]))
            return mx.softmax(logits[:, -1].astype(mx.float32), axis=-1)[:, answer].sum()

        total = mx.zeros_like(full)
        shares = mx.linspace(0.0, 1.0, self._steps).astype(full.dtype)[:, None, None]
        for start in range(0, self._steps, self._at_once):
            total = total + mx.grad(probability)(shares[start : start + self._at_once] * full).sum(axis=0)
            mx.eval(total)
        tap.say()
        return total / self._steps


def _wide(cache: Sequence[Any], *, upto: int, rows: int) -> list[Any]:
    """A one-row cache for a pass that widens to ``rows`` at a gate: layers from ``upto`` on have them all.

    Below the gate all steps are the same row, so that it is computed once. Nothing is copied before a layer needs it.
    """
    return [_repeated(layer, 1 if number < upto else rows) for number, layer in enumerate(cache)]


def _repeated(layer: Any, rows: int) -> Any:
    def wide(array: mx.array) -> mx.array:
        return mx.broadcast_to(array, (rows, *array.shape[1:]))

    if isinstance(layer, KVCache) and not layer.empty():
        made = ConcatenateKVCache()
        made.state = tuple(wide(array) for array in layer.keys_and_values())
        return made
    if isinstance(layer, ArraysCache):
        made = ArraysCache(len(layer.cache))
        made.cache = [None if array is None else wide(array) for array in layer.cache]
        return made
    return layer.merge([layer] * rows)
