"""What a usable adapter is: the rules, and the words in which each is refused.

The worker checks an adapter with MLX when it loads it, the command line with NumPy before anything runs. Both pair
tensors, compare shapes and refuse by what is here; only the arithmetic (is every number finite, is any not zero) is
their own.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agents.shared.adapters.folders import CONFIG, MLX_WEIGHTS, MOE_LORA, PEFT_WEIGHTS, describe_moe_lora
from schemas.errors import StageFailed

RULES = ("format", "pairs", "shapes", "finite", "alive")
"""Names of the rules, in the order in which they are checked."""

Shape = tuple[int, ...]


class UnfitAdapter(StageFailed):
    """An adapter breaks ``rule`` of :data:`RULES`, in ``module`` or, when that is empty, as a whole."""

    code = "adapter_failed"

    def __init__(self, rule: str, reason: str, mend: str, *, module: str = "") -> None:
        self.rule, self.module, self.reason, self.mend = rule, module, reason, mend
        super().__init__(f"{module} {reason}: {mend}".strip(), param="adapters")


@dataclass(frozen=True)
class ModuleShape:
    """What a module of the base maps: ``inputs`` to ``outputs``, by each of ``experts`` (0: no layer of experts).

    Of an embedding, tokens count as inputs and the width as outputs.
    """

    inputs: int
    outputs: int
    experts: int = 0

    def pair(self, rank: int) -> tuple[Shape, Shape]:
        """Shapes of lora_a and lora_b in mlx-lm's layout."""
        if self.experts:
            return (self.experts, rank, self.inputs), (self.experts, self.outputs, rank)
        return (self.inputs, rank), (rank, self.outputs)


def pair_up(names: Iterable[str]) -> list[str]:
    """The modules of an adapter in mlx-lm's layout, sorted; each has ``lora_a`` and ``lora_b``.

    Raises:
        UnfitAdapter: a tensor has no partner or is no LoRA tensor.
    """
    tensors = set(names)
    if any(MOE_LORA in name for name in tensors):
        raise UnfitAdapter("format", describe_moe_lora(), "or take another adapter")
    modules = {name.rpartition(".")[0] for name in tensors}
    expected = {f"{module}.{leaf}" for module in modules for leaf in ("lora_a", "lora_b")}
    if not tensors or expected != tensors:
        raise pairing_fault(expected.symmetric_difference(tensors))
    return sorted(modules)


def pairing_fault(names: Iterable[str]) -> UnfitAdapter:
    """The refusal of tensors without a partner."""
    odd = ", ".join(sorted(names)[:3]) or "no tensors"
    return UnfitAdapter("pairs", f"lora_a and lora_b do not come in pairs: {odd}", "save the whole adapter again")


def mlx_scale(config: Mapping[str, Any]) -> float:
    """The factor on the change of an adapter in mlx-lm's layout.

    Raises:
        UnfitAdapter: it is not plain LoRA, or has no scale.
    """
    kind = config.get("fine_tune_type", "lora")
    if kind != "lora":
        raise UnfitAdapter("format", f"its fine_tune_type is {kind!r}, expected 'lora'", "train it as plain LoRA")
    parameters = config.get("lora_parameters")
    scale = parameters.get("scale") if isinstance(parameters, Mapping) else None
    return check_factor("lora_parameters.scale (mlx-lm ignores 'alpha')", scale)


def check_pair(module: str, a: Shape, b: Shape) -> int:
    """The rank of a pair, whose two shapes must agree.

    Raises:
        UnfitAdapter: they do not.
    """
    if len(a) == len(b) == 3:
        agree, rank = (a[0], a[1]) == (b[0], b[2]), a[1]
    elif len(a) == len(b) == 2:
        agree, rank = a[1] == b[0], a[1]
    else:
        agree, rank = False, 0
    if not agree or 0 in (*a, *b):
        reason = f"has shapes {a} and {b}, which are no pair of (inputs, rank) and (rank, outputs)"
        raise UnfitAdapter("shapes", reason, "save the whole adapter again", module=module)
    return rank


def check_fit(module: str, a: Shape, b: Shape, shape: ModuleShape | None) -> None:
    """Check a pair against the base's module; ``shape`` None: the base has no such module.

    Raises:
        UnfitAdapter: it does not fit.
    """
    mend = "take an adapter that was trained on this base, or its base"
    if shape is None:
        raise UnfitAdapter("shapes", "is not a module of this model that LoRA can change", mend, module=module)
    rank = check_pair(module, a, b)
    if (a, b) != shape.pair(rank):
        reason = f"has shapes {a} and {b}, which do not fit the model: {' and '.join(map(str, shape.pair(rank)))} would"
        raise UnfitAdapter("shapes", reason, mend, module=module)


def judge_numbers(module: str, *, is_finite: bool, is_alive: bool) -> list[UnfitAdapter]:
    """What is wrong with a pair's numbers; ``is_alive``: some number of lora_b is not zero."""
    if not is_finite:
        mend = "train again with a smaller learning rate, or take an earlier checkpoint"
        return [UnfitAdapter("finite", "holds a number that is not finite", mend, module=module)]
    if not is_alive:
        mend = "train the module, or leave it out of the recipe's keys"
        return [UnfitAdapter("alive", "has a lora_b of all zeros, so it changes nothing", mend, module=module)]
    return []


def check_factor(field: str, value: Any) -> float:
    """The factor of a configuration's ``field``, which must be a finite number that is not 0.

    Raises:
        UnfitAdapter: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value == 0:
        state = f"{CONFIG} has no {field}" if value is None else f"{CONFIG} says {field} {value!r}"
        raise UnfitAdapter("format", state, f"write the {field} that it was trained with into {CONFIG}")
    return float(value)


def files_fault() -> UnfitAdapter:
    """The refusal of a folder without an adapter."""
    reason = f"the folder has no {CONFIG} with {MLX_WEIGHTS} or {PEFT_WEIGHTS}"
    return UnfitAdapter("format", reason, "give the folder that the trainer wrote (--adapter-path of mlx_lm)")
