"""The shapes of a base model's modules, from its configuration and the headers of its weights."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.shared.adapters.files import shorten_path
from agents.shared.adapters.folders import read_header
from agents.shared.adapters.rules import ModuleShape, Shape
from schemas.errors import SetupError

_EXPERT = re.compile(r"(?P<layer>.+)\.experts\.(?P<number>\d+)\.(?P<leaf>\w+)")
_FUSED = re.compile(r"(?P<layer>.+)\.experts\.(?P<leaf>gate_up_proj|down_proj)")
EMBEDDING = "embed_tokens"


def read_base_shapes(model: Path) -> dict[str, ModuleShape]:
    """The modules that LoRA can change, by path below the decoder; no tensor is read.

    Knows mlx-lm's weights, quantised ones included, and transformers' with single or fused experts.

    Raises:
        SetupError: the directory holds no model.
    """
    try:
        config = json.loads((model / "config.json").read_bytes())
        shapes = {
            name: tuple(entry["shape"])
            for path in sorted(model.glob("*.safetensors"))
            for name, entry in read_header(path).items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SetupError(f"{model} is no model directory that can be read: {error}.", param="model") from error
    if not shapes:
        raise SetupError(f"{model} has no safetensors weights: give a model directory.", param="model")
    by_module: dict[str, ModuleShape] = {}
    experts: dict[str, int] = {}
    for name, shape in shapes.items():
        path = shorten_path(name.removesuffix(".weight"))
        if f"{name.removesuffix('.weight')}.scales" in shapes:
            bits = _bits(config, name.removesuffix(".weight"))
            shape = (*shape[:-1], shape[-1] * 32 // bits)
        if match := _EXPERT.fullmatch(path):
            path = f"{match['layer']}.switch_mlp.{match['leaf']}"
            experts[path] = max(experts.get(path, 0), int(match["number"]) + 1)
        if name.endswith((".weight", ".gate_up_proj", ".down_proj")):
            by_module |= _shapes(path, shape)
    return by_module | {
        path: ModuleShape(by_module[path].inputs, by_module[path].outputs, count)
        for path, count in experts.items()
        if path in by_module
    }


def _shapes(path: str, shape: Shape) -> dict[str, ModuleShape]:
    """The modules that one weight belongs to: none for norms and convolutions, two for experts' fused gate and up."""
    if match := _FUSED.fullmatch(path):
        count, outputs, inputs = shape
        if match["leaf"] == "down_proj":
            return {f"{match['layer']}.switch_mlp.down_proj": ModuleShape(inputs, outputs, count)}
        half = ModuleShape(inputs, outputs // 2, count)
        return {f"{match['layer']}.switch_mlp.{leaf}_proj": half for leaf in ("gate", "up")}
    if len(shape) == 3 and ".switch_mlp." in path:
        return {path: ModuleShape(shape[2], shape[1], shape[0])}
    if len(shape) != 2:
        return {}
    rows, columns = shape
    return {path: ModuleShape(rows, columns) if path.endswith(EMBEDDING) else ModuleShape(columns, rows)}


def _bits(config: Mapping[str, Any], path: str) -> int:
    """Bits of a quantised module: its own, or else those of the whole model."""
    quantization = config.get("quantization") or config.get("quantization_config") or {}
    own = quantization.get(path)
    return int((own if isinstance(own, dict) else quantization).get("bits", 4))
