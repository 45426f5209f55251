"""A small random model of Qwen3.6-35B-A3B's architecture, and random adapters for every module of it."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models import qwen3_5_moe
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

VOCABULARY = 128
CONFIG: dict[str, Any] = {
    "model_type": "qwen3_5_moe",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
}
KINDS = (
    *(f"linear_attn.{leaf}" for leaf in ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj")),
    *(f"self_attn.{leaf}_proj" for leaf in "qkvo"),
    "mlp.gate",
    *(f"mlp.switch_mlp.{leaf}_proj" for leaf in ("gate", "up", "down")),
    *(f"mlp.shared_expert.{leaf}_proj" for leaf in ("gate", "up", "down")),
    "mlp.shared_expert_gate",
)
"""The 17 kinds of modules that its adapters change."""


def build(*, quantized: bool, tied: bool = False, seed: int = 7, **changes: Any) -> Any:
    """The model in float32, or in 4 bits (8 for the gates, as mlx-lm converts it); ``changes`` to :data:`CONFIG`."""
    mx.random.seed(seed)
    config = CONFIG | {"tie_word_embeddings": tied} | changes
    model = qwen3_5_moe.Model(qwen3_5_moe.ModelArgs.from_dict({"model_type": "qwen3_5_moe", "text_config": config}))
    if quantized:
        predicate = model.language_model.quant_predicate

        def choose(path: str, module: Any) -> Any:
            return hasattr(module, "to_quantized") and predicate(path, module)

        nn.quantize(model, group_size=64, bits=4, class_predicate=choose)
    mx.eval(model.parameters())
    return model


def save(folder: Path, model: Any, *, tokenizer: Path, tied: bool = False, **changes: Any) -> Path:
    """The quantised model as a model directory, with the tokenizer of another one. Returns the directory."""
    folder.mkdir(parents=True)
    bits = {
        path: {"group_size": 64, "bits": module.bits}
        for path, module in model.named_modules()
        if "bits" in vars(module)
    }
    quantization = {"group_size": 64, "bits": 4} | bits
    text_config = CONFIG | {"tie_word_embeddings": tied} | changes
    config = {"model_type": "qwen3_5_moe", "text_config": text_config, "quantization": quantization}
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        if (tokenizer / name).exists():
            shutil.copyfile(tokenizer / name, folder / name)
    return folder


def paths(model: Any, kinds: Iterable[str]) -> list[str]:
    """Paths of the modules of these kinds."""
    endings = tuple(kinds)
    return [path for path, _ in model.named_modules() if path.endswith(endings)]


def shapes(module: Any, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of a module's lora_a and lora_b in mlx-lm's layout."""
    if isinstance(module, (SwitchLinear, QuantizedSwitchLinear)):
        return (module.num_experts, rank, module.input_dims), (module.num_experts, module.output_dims, rank)
    rows, columns = module.weight.shape
    columns = columns * 32 // module.bits if hasattr(module, "bits") else columns
    if isinstance(module, (nn.Embedding, nn.QuantizedEmbedding)):
        return (rows, rank), (rank, columns)
    return (columns, rank), (rank, rows)


def write(
    folder: Path,
    model: Any,
    name: str,
    *,
    kinds: Iterable[str],
    seed: int,
    rank: int,
    size: float,
    dtype: Any = mx.float32,
) -> None:
    """A random adapter in mlx-lm's layout under ``folder / name``."""
    random, modules, tensors = np.random.default_rng(seed), dict(model.named_modules()), {}
    for path in paths(model, kinds):
        for leaf, shape in zip("ab", shapes(modules[path], rank), strict=True):
            tensors[f"{path}.lora_{leaf}"] = (random.standard_normal(shape) * size).astype(np.float32)
    (folder / name).mkdir(parents=True)
    config = {"fine_tune_type": "lora", "lora_parameters": {"rank": rank, "scale": 1.0}}
    (folder / name / "adapter_config.json").write_text(json.dumps(config))
    arrays = {name: mx.array(tensor).astype(dtype) for name, tensor in tensors.items()}
    mx.save_safetensors(str(folder / name / "adapters.safetensors"), arrays)
