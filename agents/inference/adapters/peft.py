"""Turns LoRA adapters in PEFT's layout (:mod:`agents.shared.adapters.peft_names`) into pairs for an MLX model."""

from collections.abc import Container, Mapping
from typing import Any

import mlx.core as mx

from agents.inference.adapters.pairs import LowRankPair
from agents.inference.failures import name_faults
from agents.shared.adapters.folders import PEFT_WEIGHTS
from agents.shared.adapters.peft_names import find_path, group_experts, pair_peft, peft_scale

WEIGHTS = PEFT_WEIGHTS


def pairs(
    name: str, config: Mapping[str, Any], tensors: Mapping[str, Any], modules: Container[str]
) -> dict[str, LowRankPair]:
    """Pairs with the scale folded in, by module path. A path that is not among ``modules`` is returned as
    transformers calls it.

    Raises:
        StageFailed: code ``adapter_failed``: it is not plain LoRA, or A and B do not come in pairs.
    """
    with name_faults(name):
        peft_scale(config, 1)
        names = pair_peft({key: tensor.ndim for key, tensor in tensors.items()})
        single = {path: _make_pair(tensors[a].T, tensors[b].T, config) for path, (a, b) in names.items()}
    by_module = {
        module: single[paths[None]]
        if None in paths
        else _stack_experts({number: single[path] for number, path in paths.items() if number is not None})
        for module, paths in group_experts(single).items()
    }
    return {find_path(module, modules): pair for module, pair in by_module.items()}


def _make_pair(a: mx.array, b: mx.array, config: Mapping[str, Any]) -> LowRankPair:
    return LowRankPair(a=a, b=b * peft_scale(config, a.shape[1]))


def _stack_experts(by_number: Mapping[int, LowRankPair]) -> LowRankPair:
    """The pairs of a layer's single experts in one; a missing expert gets zeros, which change nothing."""
    template = next(iter(by_number.values()))
    nothing = LowRankPair(a=mx.zeros_like(template.a), b=mx.zeros_like(template.b))
    row = [by_number.get(number, nothing) for number in range(max(by_number) + 1)]
    return LowRankPair(a=mx.stack([pair.a.T for pair in row]), b=mx.stack([pair.b.T for pair in row]))
