"""Random LoRA adapters of the small model, in mlx-lm's format."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

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


def write_tiny_model(small_model: Path, folder: Path, *, seed: int = 0) -> Path:
    """Write a random model of the small one's architecture and vocabulary, with two layers of 64: it loads at once."""
    folder.mkdir(parents=True)
    config = json.loads((small_model / "config.json").read_text())
    config |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "torch_dtype": "float32"}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(small_model / name, folder / name)
    random, tensors = np.random.default_rng(seed), {"model.norm.weight": np.ones(64, np.float32)}
    shapes = {"model.embed_tokens": (config["vocab_size"], 64)}
    for layer in (f"model.layers.{number}" for number in range(2)):
        shapes |= {f"{layer}.self_attn.{leaf}_proj": (64, 64) for leaf in "qo"}
        shapes |= {f"{layer}.self_attn.{leaf}_proj": (32, 64) for leaf in "kv"}
        shapes |= {f"{layer}.mlp.{leaf}_proj": (128, 64) for leaf in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj"] = (64, 128)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}.{norm}.weight"] = np.ones(64, np.float32)
    for path, shape in shapes.items():
        tensors[f"{path}.weight"] = (random.standard_normal(shape) * 0.1).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder


def write_variation(source: Path, folder: Path, name: str, *, factor: float, copied: str = "") -> Path:
    """Write the adapter in ``source`` with its change multiplied by ``factor``, but for the ``copied`` module."""
    (folder / name).mkdir(parents=True)
    shutil.copy(source / "adapter_config.json", folder / name)
    tensors = {
        key: tensor * np.float32(factor) if key.endswith("lora_b") and key != f"{copied}.lora_b" else tensor
        for key, tensor in load_file(source / "adapters.safetensors").items()
    }
    save_file(tensors, folder / name / "adapters.safetensors")
    return folder / name
