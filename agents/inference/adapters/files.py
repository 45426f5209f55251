"""Reads, verifies and combines LoRA adapters (arXiv 2106.09685) in mlx-lm's or PEFT's layout.

Shapes, with rank r: a linear layer has ``a`` (inputs, r) and ``b`` (r, outputs); an embedding ``a`` (tokens, r) and
``b`` (r, width); a layer of E experts ``a`` (E, r, inputs) and ``b`` (E, outputs, r). The adapter's scale is folded
into ``b``, so that the pair's product is the whole change.
"""

import functools
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from agents.inference.adapters import peft
from agents.inference.adapters.pairs import LowRankPair
from agents.inference.failures import adapter_error, name_faults
from agents.shared.adapters.folders import find_weights, read_header
from agents.shared.adapters.rules import ModuleShape, UnfitAdapter, check_fit, judge_numbers, mlx_scale, pair_up
from agents.shared.adapters.verdicts import read_digest

WEIGHTS = "adapters.safetensors"
CONFIG = "adapter_config.json"


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A verified adapter; ``pairs`` by the path of the module that each changes."""

    name: str
    sha256: str
    pairs: dict[str, LowRankPair]

    @property
    def nbytes(self) -> int:
        """Bytes of all pairs."""
        return sum(pair.nbytes for pair in self.pairs.values())

    @functools.cached_property
    def norm(self) -> float:
        """Frobenius norm of the whole change, over all modules; read on the model's thread."""
        return math.sqrt(float(mx.sum(mx.stack([pair.square for pair in self.pairs.values()]))))


def read_adapter(name: str, folder: Path, modules: Mapping[str, Any]) -> Adapter:
    """The adapter of a folder, for a model with these ``modules`` by path. Its numbers stay of the type of the file.

    Raises:
        StageFailed: code ``adapter_failed``: it cannot be read, is not LoRA, does not fit the model, holds a number
            that is not finite, or has a ``lora_b`` of zeros (which changes nothing).
    """
    path = find_weights(folder)
    if path is None:
        raise adapter_error(name, f"the folder has no {CONFIG} with {WEIGHTS} or {peft.WEIGHTS}")
    try:
        config = json.loads((folder / CONFIG).read_text())
        sha256 = read_digest(path)
        tensors: Any = mx.load(str(path))
    except (OSError, ValueError, RuntimeError) as error:
        raise adapter_error(name, f"it cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise adapter_error(name, f"{CONFIG} is not an object")
    if path.name == peft.WEIGHTS:
        pairs = peft.pairs(name, config, tensors, modules)
    else:
        pairs = _pair_up(name, tensors, _scale(name, config))
    return Adapter(name=name, sha256=sha256, pairs=_verify(name, pairs, modules))


def parse_pairs(
    name: str, data: bytes, modules: Mapping[str, Any], *, scale: float, dtype: Any | None = None
) -> dict[str, LowRankPair]:
    """The pairs in the bytes of a safetensors file of mlx-lm's layout, verified like those of :func:`read_adapter`;
    cast to ``dtype`` if given.

    Raises:
        StageFailed: code ``adapter_failed``.
    """
    try:
        tensors: Any = mx.load(io.BytesIO(data), format="safetensors")
    except (ValueError, RuntimeError) as error:
        raise adapter_error(name, f"it cannot be read ({error})") from error
    pairs = _pair_up(name, tensors, scale)
    if dtype is not None:
        pairs = {path: LowRankPair(a=pair.a.astype(dtype), b=pair.b.astype(dtype)) for path, pair in pairs.items()}
    return _verify(name, pairs, modules)


def scale_of(folder: Path) -> float:
    """The scale of an adapter in mlx-lm's layout: the factor on its change.

    Raises:
        StageFailed: code ``adapter_failed``.
    """
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise adapter_error(folder.name, f"{CONFIG} cannot be read ({error})") from error
    return _scale(folder.name, config if isinstance(config, dict) else {})


@dataclass(frozen=True, kw_only=True)
class Extent:
    """What a module's pair takes in memory: its ``rank``, and ``bytes`` for each of its columns."""

    rank: int
    bytes: int


def measure_extents(path: Path) -> dict[str, Extent]:
    """Extents by module, from the header of an adapter's file; no tensor is read.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no safetensors file.
    """
    status = path.stat()
    return _extents(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=256)
def _extents(path: Path, _mtime: int, _size: int) -> dict[str, Extent]:
    ranks: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for key, tensor in read_header(path).items():
        module, shape = re.sub(r"\.lora_.*", "", key), tensor["shape"]
        begin, end = tensor["data_offsets"]
        sizes[module] = sizes.get(module, 0) + end - begin
        if re.search(r"\.lora_(embedding_)?[aA](\.weight)?$", key):
            is_columns = key.endswith(".lora_a") and len(shape) == 2
            ranks[module] = shape[1] if is_columns or len(shape) == 3 else shape[0]
    return {module: Extent(rank=rank, bytes=sizes[module] // max(1, rank)) for module, rank in ranks.items()}


def combine(weighted_adapters: Sequence[tuple[Adapter, float]]) -> dict[str, LowRankPair]:
    """One pair a module whose change is the weighted sum of the adapters' changes: their ranks side by side."""
    if len(weighted_adapters) == 1 and weighted_adapters[0][1] == 1.0:
        return dict(weighted_adapters[0][0].pairs)
    parts: dict[str, list[LowRankPair]] = {}
    for adapter, weight in weighted_adapters:
        for module, pair in adapter.pairs.items():
            parts.setdefault(module, []).append(LowRankPair(a=pair.a, b=pair.b * weight))
    return {module: _concatenate_ranks(pairs) for module, pairs in parts.items()}


def change(pair: LowRankPair) -> mx.array:
    """The change as a full matrix: ``a @ b``, or ``b @ a`` for each expert; for tests."""
    return pair.b @ pair.a if pair.a.ndim == 3 else pair.a @ pair.b


def _concatenate_ranks(pairs: list[LowRankPair]) -> LowRankPair:
    experts = pairs[0].a.ndim == 3
    a = mx.concatenate([pair.a for pair in pairs], axis=1)
    b = mx.concatenate([pair.b for pair in pairs], axis=2 if experts else 0)
    return LowRankPair(a=a, b=b)


def _scale(name: str, config: Mapping[str, Any]) -> float:
    with name_faults(name):
        return mlx_scale(config)


def _pair_up(name: str, tensors: Mapping[str, mx.array], scale: float) -> dict[str, LowRankPair]:
    with name_faults(name):
        modules = pair_up(tensors)
    return {
        module: LowRankPair(a=tensors[f"{module}.lora_a"], b=tensors[f"{module}.lora_b"] * scale) for module in modules
    }


def _misfit(module: Any, pair: LowRankPair) -> str | None:
    """Why the pair does not fit the module; None when it does."""
    try:
        check_fit("", tuple(pair.a.shape), tuple(pair.b.shape), measure_shape(module))
    except UnfitAdapter as fault:
        return fault.message
    return None


def measure_shape(module: Any) -> ModuleShape | None:
    """What a module of the model maps; None when LoRA cannot change it."""
    if isinstance(module, (SwitchLinear, QuantizedSwitchLinear)):
        return ModuleShape(module.input_dims, module.output_dims, module.num_experts)
    if not isinstance(module, (nn.Linear, nn.QuantizedLinear, nn.Embedding, nn.QuantizedEmbedding)):
        return None
    rows, columns = module.weight.shape
    if isinstance(module, (nn.QuantizedLinear, nn.QuantizedEmbedding)):
        columns = columns * 32 // module.bits
    is_embedding = isinstance(module, (nn.Embedding, nn.QuantizedEmbedding))
    return ModuleShape(rows, columns) if is_embedding else ModuleShape(columns, rows)


def _verify(name: str, pairs: dict[str, LowRankPair], modules: Mapping[str, Any]) -> dict[str, LowRankPair]:
    for module, pair in pairs.items():
        if (reason := _misfit(modules.get(module), pair)) is not None:
            raise adapter_error(name, f"{module} {reason}")
    _refuse_unhealthy(name, pairs)
    return pairs


def _refuse_unhealthy(name: str, pairs: Mapping[str, LowRankPair]) -> None:
    modules = list(pairs)
    finite = mx.stack([mx.all(mx.isfinite(pair.a)) & mx.all(mx.isfinite(pair.b)) for pair in pairs.values()])
    alive = mx.stack([mx.any(pair.b != 0) for pair in pairs.values()])
    mx.eval(finite, alive, [(pair.a, pair.b) for pair in pairs.values()])
    verdicts: Any = zip(modules, finite.tolist(), alive.tolist(), strict=True)  # type: ignore[arg-type]
    for module, is_finite, is_alive in verdicts:
        for fault in judge_numbers(module, is_finite=is_finite, is_alive=is_alive):
            raise adapter_error(name, fault.message)
