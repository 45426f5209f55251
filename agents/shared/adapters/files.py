"""An adapter on disk, in mlx-lm's or PEFT's layout, read one module at a time with NumPy."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from agents.shared.adapters.folders import (
    PEFT_WEIGHTS,
    describe_moe_lora,
    find_weights,
    is_moe_lora,
    name_of,
    read_config,
)
from agents.shared.adapters.low_rank import Array, Factors
from agents.shared.adapters.peft_names import group_experts, pair_peft, peft_scale
from agents.shared.adapters.rules import Shape, UnfitAdapter, files_fault, mlx_scale, pair_up
from agents.shared.adapters.tensors import TensorFile

_ROOT = re.compile(r"(?:(?:language_)?model\.)+")
_LAYER = re.compile(r"layers\.(\d+)\.")


@dataclass(frozen=True)
class _Pair:
    """Names of a module's two tensors: under None, or of single experts by number."""

    names: Mapping[int | None, tuple[str, str]]


class AdapterFile:
    """The adapter in a folder. ``modules`` are its module paths below the decoder, the same for every layout and base.

    Raises:
        UnfitAdapter: it is no LoRA that is served, or its tensors do not come in pairs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, name_of(folder)
        weights = find_weights(folder)
        if is_moe_lora(folder):
            raise UnfitAdapter("format", describe_moe_lora(self.name), "or take another adapter")
        if weights is None:
            raise files_fault()
        try:
            self.tensors = TensorFile(weights)
        except (OSError, ValueError) as error:
            raise UnfitAdapter("format", f"it cannot be read ({error})", "copy or save it again") from error
        self._config, self._is_peft = read_config(folder), weights.name == PEFT_WEIGHTS
        pairs = self._pair_peft() if self._is_peft else self._pair_mlx()
        self._pairs = {shorten_path(path): pair for path, pair in sorted(pairs.items())}
        self.modules = tuple(self._pairs)

    @cached_property
    def dtype(self) -> str:
        """The types that the tensors are stored in, as safetensors names them."""
        return "+".join(sorted(set(self.tensors.types.values())))

    def shapes(self, module: str) -> tuple[Shape, Shape]:
        """Shapes of lora_a and lora_b in mlx-lm's layout. Experts that PEFT left out count: they change nothing."""
        names, shapes = self._pairs[module].names, self.tensors.shapes
        if None in names:
            a, b = (shapes[name] for name in names[None])
            return (a[::-1], b[::-1]) if self._is_peft else (a, b)
        a, b = (shapes[name] for name in next(iter(names.values())))
        count = max(number for number in names if number is not None) + 1
        return (count, *a), (count, *b)

    def read(self, module: str) -> Factors:
        """The two sides of a module's change, the scale folded in."""
        a, b = self._read_pair(module)
        rank = a.shape[-2] if a.ndim == 3 else a.shape[-1]
        scale = np.float32(peft_scale(self._config, rank) if self._is_peft else mlx_scale(self._config))
        return Factors(b * scale, a) if a.ndim == 3 else Factors(a, b * scale)

    def read_sides(self, module: str) -> tuple[Array, Array]:
        """lora_a and lora_b as stored, in mlx-lm's orientation."""
        return self._read_pair(module)

    def _read_pair(self, module: str) -> tuple[Array, Array]:
        names = self._pairs[module].names
        if None in names:
            a, b = (self.tensors.read(name) for name in names[None])
            return (a.T, b.T) if self._is_peft else (a, b)
        a_shape, b_shape = self.shapes(module)
        stacks = np.zeros(a_shape, np.float32), np.zeros(b_shape, np.float32)
        for number, pair in names.items():
            for stack, name in zip(stacks, pair, strict=True):
                stack[number] = self.tensors.read(name)
        return stacks

    def _pair_mlx(self) -> dict[str, _Pair]:
        mlx_scale(self._config)
        return {
            module: _Pair({None: (f"{module}.lora_a", f"{module}.lora_b")}) for module in pair_up(self.tensors.shapes)
        }

    def _pair_peft(self) -> dict[str, _Pair]:
        peft_scale(self._config, 1)
        names = pair_peft({name: len(shape) for name, shape in self.tensors.shapes.items()})
        return {
            module: _Pair({number: names[path] for number, path in paths.items()})
            for module, paths in group_experts(names).items()
        }


def shorten_path(path: str) -> str:
    """A module's path below the decoder: ``layers.3.mlp.gate`` for mlx-lm's and transformers' paths alike."""
    return _ROOT.sub("", path, count=1) if _ROOT.match(path) else path


def kind_of(module: str) -> str:
    """The module's path without its layer: ``mlp.gate`` for ``layers.3.mlp.gate``."""
    return _LAYER.sub("", module, count=1)


def layer_of(module: str) -> int | None:
    """The number of the module's layer; None outside the layers."""
    match = _LAYER.match(module)
    return int(match[1]) if match else None
