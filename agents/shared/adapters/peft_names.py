"""PEFT's names and scales of LoRA tensors.

PEFT stores ``lora_A.weight`` (r, inputs) and ``lora_B.weight`` (outputs, r), of embeddings ``lora_embedding_A``
(r, tokens) and ``lora_embedding_B`` (width, r), each under ``base_model.model.`` and the module's path in transformers;
each expert may have tensors of its own. The change is scaled by ``lora_alpha / r``, with rsLoRA (arXiv 2312.03732) by
``lora_alpha / sqrt(r)``; r is each tensor's own, so that rank patterns need no look-up.
"""

import math
import re
from collections.abc import Container, Iterable, Mapping
from typing import Any

from agents.shared.adapters.rules import UnfitAdapter, check_factor, pairing_fault

PREFIX = "base_model.model."
_LEAF = re.compile(r"(?P<path>.+)\.lora_(?:embedding_)?(?P<side>[AB])(?:\.weight)?")
_EXPERT = re.compile(r"(?P<layer>.+)\.experts\.(?P<number>\d+)\.(?P<leaf>\w+)")
_ROOTS = (("", ""), ("model.language_model.", "language_model.model."), ("", "language_model."))
"""Pairs of prefixes: of a module's path in transformers, and of the same path in mlx-lm."""
_PLAIN = "train it as plain LoRA, or convert it"


def peft_scale(config: Mapping[str, Any], rank: int) -> float:
    """The factor on the change of a pair of this rank.

    Raises:
        UnfitAdapter: the adapter is not plain LoRA.
    """
    for field in ("use_dora", "alpha_pattern", "modules_to_save", "target_parameters"):
        if config.get(field):
            raise UnfitAdapter("format", f"its {field} is {config[field]!r}, which is not served", _PLAIN)
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        raise UnfitAdapter("format", "it is not LoRA without biases (peft_type LORA, bias none)", _PLAIN)
    alpha = check_factor("lora_alpha", config.get("lora_alpha"))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def pair_peft(dimensions: Mapping[str, int]) -> dict[str, tuple[str, str]]:
    """The names of A and B by transformers' path; ``dimensions`` by tensor name.

    Raises:
        UnfitAdapter: a tensor has no partner or is no LoRA tensor.
    """
    sides: dict[str, dict[str, str]] = {}
    for name, count in dimensions.items():
        match = _LEAF.fullmatch(name.removeprefix(PREFIX))
        if match is None or count != 2:
            raise UnfitAdapter("format", f"{name} is no LoRA tensor of two dimensions", _PLAIN)
        sides.setdefault(match["path"], {})[match["side"]] = name
    odd = [path for path, both in sides.items() if len(both) != 2]
    if odd or not sides:
        raise pairing_fault(odd)
    return {path: (both["A"], both["B"]) for path, both in sides.items()}


def group_experts(paths: Iterable[str]) -> dict[str, dict[int | None, str]]:
    """The paths by mlx-lm's module: under None a module's own, else those of its single experts by number."""
    groups: dict[str, dict[int | None, str]] = {}
    for path in paths:
        match = _EXPERT.fullmatch(path)
        if match is None:
            groups.setdefault(path, {})[None] = path
        else:
            groups.setdefault(f"{match['layer']}.switch_mlp.{match['leaf']}", {})[int(match["number"])] = path
    return groups


def find_path(path: str, modules: Container[str]) -> str:
    """The path among ``modules`` of mlx-lm's that transformers' ``path`` means; ``path`` itself when it is none."""
    candidates = (mlx + path.removeprefix(torch) for torch, mlx in _ROOTS if path.startswith(torch))
    return next((candidate for candidate in candidates if candidate in modules), path)
