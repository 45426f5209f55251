"""Random adapters for the benches."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from runtime.bench.weights import float32_copy, write_random_adapters


def test_random_adapters_fit_the_model(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    weights = {
        "model.layers.0.self_attn.q_proj.weight": np.ones((6, 4), np.float16),
        "model.norm.weight": np.ones(4, np.float16),
    }
    save_file(weights, model / "model.safetensors")
    copy = load_file(float32_copy(model, tmp_path / "copy") / "model.safetensors")
    assert {array.dtype for array in copy.values()} == {np.dtype(np.float32)}
    (name,) = write_random_adapters(model, tmp_path / "adapters", count=1, rank=2)
    tensors = load_file(tmp_path / "adapters" / name / "adapters.safetensors")
    assert {key: array.shape for key, array in tensors.items()} == {
        "model.layers.0.self_attn.q_proj.lora_a": (4, 2),
        "model.layers.0.self_attn.q_proj.lora_b": (2, 6),
    }
