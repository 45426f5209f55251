"""SwiGLU by the C library's exponential: mlx-lm's numbers, and really called by the models."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import activations, llama, qwen3_next, switch_layers

from agents.inference.mlx import swiglu
from tests.agents.inference import hybrid


def test_the_numbers_are_mlx_lms() -> None:
    random = np.random.default_rng(0)
    gate, x = (mx.array(random.standard_normal((64, 96)) * size, mx.float32) for size in (6.0, 2.0))
    np.testing.assert_allclose(swiglu.swiglu(gate, x), activations.swiglu(gate, x), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(("gate", "expected"), [(-1e4, 0.0), (-90.0, 0.0), (0.0, 0.0), (90.0, 180.0), (1e4, 2e4)])
def test_far_gates_are_finite(gate: float, expected: float) -> None:
    assert swiglu.swiglu(mx.array(gate), mx.array(2.0)).item() == pytest.approx(expected, abs=1e-30)


def test_gradients_are_mlx_lms() -> None:
    gate, x = mx.array([-3.0, -0.1, 0.0, 2.0]), mx.array([1.0, -2.0, 0.5, 3.0])

    def slopes(function: Any) -> Any:
        return mx.grad(lambda g, y: function(g, y).sum(), argnums=(0, 1))(gate, x)

    for mine, theirs in zip(slopes(swiglu.swiglu), slopes(activations.swiglu), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_models_call_the_replaced_swiglu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (llama, qwen3_next, switch_layers):
        monkeypatch.setattr(module, "swiglu", activations.swiglu)
    calls = 0

    def count_call(gate: mx.array, x: mx.array) -> Any:
        nonlocal calls
        calls += 1
        return activations.swiglu(gate, x)

    monkeypatch.setattr(swiglu, "swiglu", count_call)
    model = hybrid.build(quantized=False)
    swiglu.lighten(model)
    assert llama.swiglu is activations.swiglu, "another model's module is left alone"
    model(mx.array([[1, 2]]))
    assert calls == 2 * len(model.layers), "the experts and the shared expert of each layer"
