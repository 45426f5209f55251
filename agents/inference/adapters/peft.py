"""Turns LoRA adapters in PEFT's layout into pairs for the modules of an MLX model.

PEFT stores ``lora_A.weight`` (r, inputs) and ``lora_B.weight`` (outputs, r), of embeddings ``lora_embedding_A``
(r, tokens) and ``lora_embedding_B`` (width, r), each under ``base_model.model.`` and the module's path in transformers;
each expert may have tensors of its own. The change is scaled by ``lora_alpha / r``, with rsLoRA (arXiv 2312.03732) by
``lora_alpha / sqrt(r)``.
"""

import math
import re
from collections.abc import Container, Mapping
from typing import Any

import mlx.core as mx

from agents.inference.adapters.pairs import LowRankPair
from agents.inference.failures import adapter_error

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
_LEAF = re.compile(r"(?P<path>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.weight)?")
_EXPERT = re.compile(r"(?P<layer>.+)\.experts\.(?P<number>\d+)\.(?P<leaf>\w+)")
_ROOTS = (("", ""), ("model.language_model.", "language_model.model."), ("", "language_model."))
"""Pairs of prefixes: of a module's path in transformers, and of the same path in mlx-lm."""


def pairs(
    name: str, config: Mapping[str, Any], tensors: Mapping[str, Any], modules: Container[str]
) -> dict[str, LowRankPair]:
    """Pairs with the scale folded in, by module path. A path that is not among ``modules`` is returned as
    transformers calls it.

    Raises:
        StageFailed: code ``adapter_failed``: it is not plain LoRA, or A and B do not come in pairs.
    """
    for field in ("use_dora", "alpha_pattern", "modules_to_save", "target_parameters"):
        if config.get(field):
            raise adapter_error(name, f"its {field} is {config[field]!r}, which is not served")
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        raise adapter_error(name, "it is not LoRA without biases (peft_type LORA, bias none)")
    alpha = config.get("lora_alpha")
    if not isinstance(alpha, (int, float)):
        raise adapter_error(name, "adapter_config.json has no lora_alpha")
    sides: dict[str, dict[str, mx.array]] = {}
    for key, tensor in tensors.items():
        match = _LEAF.fullmatch(key.removeprefix(PREFIX))
        if match is None or tensor.ndim != 2:
            raise adapter_error(name, f"{key} is no LoRA tensor of two dimensions")
        sides.setdefault(match["path"], {})[match["side"]] = tensor.T
    odd = sorted(path for path, both in sides.items() if len(both) != 2)
    if odd or not sides:
        raise adapter_error(name, f"lora_A and lora_B do not come in pairs: {', '.join(odd[:3]) or 'no tensors'}")
    single = {path: _make_pair(both["A"], both["B"], alpha, config) for path, both in sides.items()}
    return {_find_path(path, modules): pair for path, pair in _stack_experts(single).items()}


def _make_pair(a: mx.array, b: mx.array, alpha: float, config: Mapping[str, Any]) -> LowRankPair:
    rank = a.shape[1]
    return LowRankPair(a=a, b=b * (alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)))


def _find_path(path: str, modules: Container[str]) -> str:
    candidates = (mlx + path.removeprefix(torch) for torch, mlx in _ROOTS if path.startswith(torch))
    return next((candidate for candidate in candidates if candidate in modules), path)


def _stack_experts(single: Mapping[str, LowRankPair]) -> dict[str, LowRankPair]:
    """Stack the pairs of single experts, by layer; a missing expert gets zeros, which change nothing."""
    by_path: dict[str, LowRankPair] = {}
    experts: dict[str, dict[int, LowRankPair]] = {}
    for path, pair in single.items():
        match = _EXPERT.fullmatch(path)
        if match is None:
            by_path[path] = pair
        else:
            stack = experts.setdefault(f"{match['layer']}.switch_mlp.{match['leaf']}", {})
            stack[int(match["number"])] = pair
    for path, by_number in experts.items():
        template = next(iter(by_number.values()))
        nothing = LowRankPair(a=mx.zeros_like(template.a), b=mx.zeros_like(template.b))
        row = [by_number.get(number, nothing) for number in range(max(by_number) + 1)]
        by_path[path] = LowRankPair(a=mx.stack([pair.a.T for pair in row]), b=mx.stack([pair.b.T for pair in row]))
    return by_path
