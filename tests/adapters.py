"""Random LoRA adapters of the small model, in mlx-lm's format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

TARGETS = ("self_attn.q_proj", "self_attn.v_proj")


def write_adapter(
    model: Path, folder: Path, name: str, *, seed: int = 0, rank: int = 4, size: float = 0.3, **overrides: Any
) -> Path:
    """Write an adapter into ``folder / name``.

    ``tensors`` in ``overrides`` replace tensors of the adapter, the others fields of its configuration.
    """
    config = json.loads((model / "config.json").read_text())
    width, layers, kv = config["hidden_size"], config["num_hidden_layers"], config["num_key_value_heads"]
    outputs = {"self_attn.q_proj": width, "self_attn.v_proj": width // config["num_attention_heads"] * kv}
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(layers):
        for target in TARGETS:
            path = f"model.layers.{layer}.{target}"
            shape = (width, rank), (rank, outputs[target])
            tensors[f"{path}.lora_a"] = (random.standard_normal(shape[0]) * size).astype(np.float32)
            tensors[f"{path}.lora_b"] = (random.standard_normal(shape[1]) * size).astype(np.float32)
    tensors.update(overrides.pop("tensors", {}))
    parameters = {"rank": rank, "scale": 1.0, "dropout": 0.0, "keys": list(TARGETS)}
    adapter = {"fine_tune_type": "lora", "num_layers": layers, "lora_parameters": parameters} | overrides
    (folder / name).mkdir(parents=True)
    (folder / name / "adapter_config.json").write_text(json.dumps(adapter))
    save_file(tensors, folder / name / "adapters.safetensors")
    return folder / name
