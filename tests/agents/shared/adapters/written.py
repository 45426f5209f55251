"""Adapters written for the tests of this folder: of any tensors, types and layouts."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agents.shared.adapters.low_rank import Factors

KINDS = {
    "linear_attn.in_proj_qkv": (48, 64),
    "linear_attn.in_proj_a": (48, 4),
    "self_attn.q_proj": (48, 40),
    "mlp.gate": (48, 8),
    "mlp.shared_expert_gate": (48, 1),
    "mlp.switch_mlp.up_proj": (48, 24),
}
"""Inputs and outputs of some of the kinds of modules that an adapter of Qwen3.6-35B-A3B changes, scaled down."""
EXPERTS, RANK, LAYERS = 4, 16, 3
ROOT = "language_model.model."


def random_factors(seed: int, kind: str, *, left: Any = None) -> Factors:
    """A random change of a kind's shape; ``left`` is kept if given, as trainers begin from one lora_a."""
    inputs, outputs = KINDS[kind]
    random = np.random.default_rng(seed)
    if ".switch_mlp." in kind:
        return Factors(
            random.standard_normal((EXPERTS, outputs, RANK)), random.standard_normal((EXPERTS, RANK, inputs))
        )
    return Factors(
        random.standard_normal((inputs, RANK)) if left is None else left, random.standard_normal((RANK, outputs))
    )


def random_changes(seed: int) -> dict[str, Factors]:
    """A random change of every kind in every layer, by module."""
    return {
        f"layers.{layer}.{kind}": random_factors(seed * 1000 + layer * 10 + number, kind)
        for layer in range(LAYERS)
        for number, kind in enumerate(KINDS)
    }


def write_tensors(path: Path, tensors: Mapping[str, Any], dtype: str = "F32") -> None:
    """A safetensors file in one type, bfloat16 included."""
    header, parts, end = {}, [], 0
    for name, values in tensors.items():
        array = np.ascontiguousarray(values, dtype=np.float32)
        if dtype == "BF16":
            data = (array.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        else:
            data = array.astype({"F32": np.float32, "F16": np.float16, "F64": np.float64}[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [end, end + len(data)]}
        parts.append(data)
        end += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def write_mlx(
    folder: Path, changes: Mapping[str, Factors], *, dtype: str = "F32", root: str = ROOT, **config: Any
) -> Path:
    """An adapter in mlx-lm's layout."""
    tensors: dict[str, Any] = {}
    for module, factors in changes.items():
        a, b = (factors.right, factors.left) if factors.left.ndim == 3 else (factors.left, factors.right)
        tensors |= {f"{root}{module}.lora_a": a, f"{root}{module}.lora_b": b}
    folder.mkdir(parents=True)
    write_tensors(folder / "adapters.safetensors", tensors, dtype)
    settings = {"fine_tune_type": "lora", "lora_parameters": {"rank": RANK, "scale": 1.0}} | config
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def write_peft(folder: Path, changes: Mapping[str, Factors], *, dtype: str = "F32", **config: Any) -> Path:
    """The same adapter in PEFT's layout, with a tensor an expert; its scale is 1 unless the configuration says else."""
    tensors: dict[str, Any] = {}
    for module, factors in changes.items():
        path = f"base_model.model.model.language_model.{module}"
        if factors.left.ndim == 3:
            for number in range(EXPERTS):
                expert = path.replace("switch_mlp", f"experts.{number}")
                tensors[f"{expert}.lora_A.weight"] = factors.right[number]
                tensors[f"{expert}.lora_B.weight"] = factors.left[number]
        else:
            tensors |= {f"{path}.lora_A.weight": factors.left.T, f"{path}.lora_B.weight": factors.right.T}
    folder.mkdir(parents=True)
    write_tensors(folder / "adapter_model.safetensors", tensors, dtype)
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "bias": "none"} | config
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder
