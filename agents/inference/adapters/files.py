"""Reads, verifies and combines LoRA adapters (arXiv 2106.09685) in mlx-lm's or PEFT's layout.

Shapes, with rank r: a linear layer has ``a`` (inputs, r) and ``b`` (r, outputs); an embedding ``a`` (tokens, r) and
``b`` (r, width); a layer of E experts ``a`` (E, r, inputs) and ``b`` (E, outputs, r). The adapter's scale is folded
into ``b``, so that the pair's product is the whole change.
"""

import functools
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from agents.inference.adapters import peft
from agents.inference.adapters.pairs import LowRankPair
from agents.inference.failures import adapter_error

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


def find_weights(folder: Path) -> Path | None:
    """The file with an adapter's tensors; None when the folder holds no adapter."""
    paths = (folder / name for name in (WEIGHTS, peft.WEIGHTS))
    return next((path for path in paths if path.is_file()), None) if (folder / CONFIG).is_file() else None


def read_adapter(folder: Path, modules: Mapping[str, Any], *, dtype: Any | None = None) -> Adapter:
    """The adapter of a folder, for a model with these ``modules`` by path; cast to ``dtype`` if given.

    Raises:
        StageFailed: code ``adapter_failed``: it cannot be read, is not LoRA, does not fit the model, holds a number
            that is not finite, or has a ``lora_b`` of zeros (which changes nothing).
    """
    name, path = folder.name, find_weights(folder)
    if path is None:
        raise adapter_error(name, f"the folder has no {CONFIG} with {WEIGHTS} or {peft.WEIGHTS}")
    try:
        config = json.loads((folder / CONFIG).read_text())
        sha256 = digest(path)
        tensors: Any = mx.load(str(path))
    except (OSError, ValueError, RuntimeError) as error:
        raise adapter_error(name, f"it cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise adapter_error(name, f"{CONFIG} is not an object")
    if path.name == peft.WEIGHTS:
        pairs = peft.pairs(name, config, tensors, modules)
    else:
        pairs = _pair_up(name, tensors, _scale(name, config))
    return Adapter(name=name, sha256=sha256, pairs=_verify(name, pairs, modules, dtype))


def parse_pairs(
    name: str, data: bytes, modules: Mapping[str, Any], *, scale: float, dtype: Any | None = None
) -> dict[str, LowRankPair]:
    """The pairs in the bytes of a safetensors file of mlx-lm's layout, verified like those of :func:`read_adapter`.

    Raises:
        StageFailed: code ``adapter_failed``.
    """
    try:
        tensors: Any = mx.load(io.BytesIO(data), format="safetensors")
    except (ValueError, RuntimeError) as error:
        raise adapter_error(name, f"it cannot be read ({error})") from error
    return _verify(name, _pair_up(name, tensors, scale), modules, dtype)


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


def digest(path: Path) -> str:
    """sha256 of a file, computed once for each modification time and size.

    Reading the file is most of the cost of loading an adapter; afterwards it is in the system's page cache.

    Raises:
        OSError: the file cannot be read.
    """
    status = path.stat()
    return _digest(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=4096)
def _digest(path: Path, _mtime: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    kind = config.get("fine_tune_type", "lora")
    if kind != "lora":
        raise adapter_error(name, f"its fine_tune_type is {kind!r}, expected 'lora'")
    scale = (config.get("lora_parameters") or {}).get("scale")
    if not isinstance(scale, (int, float)):
        raise adapter_error(name, f"{CONFIG} has no lora_parameters.scale (mlx-lm ignores 'alpha')")
    return float(scale)


def _pair_up(name: str, tensors: Mapping[str, mx.array], scale: float) -> dict[str, LowRankPair]:
    modules = {key.rpartition(".")[0] for key in tensors}
    expected = {f"{module}.{leaf}" for module in modules for leaf in ("lora_a", "lora_b")}
    if not tensors or expected != set(tensors):
        odd = sorted(expected.symmetric_difference(tensors))[:3]
        raise adapter_error(name, f"lora_a and lora_b do not come in pairs: {', '.join(odd) or 'no tensors'}")
    return {
        module: LowRankPair(a=tensors[f"{module}.lora_a"], b=tensors[f"{module}.lora_b"] * scale)
        for module in sorted(modules)
    }


def _misfit(module: Any, pair: LowRankPair) -> str | None:
    """Why the pair does not fit the module; None when it does."""
    a, b = tuple(pair.a.shape), tuple(pair.b.shape)
    if isinstance(module, (SwitchLinear, QuantizedSwitchLinear)):
        experts, inputs, outputs = module.num_experts, module.input_dims, module.output_dims
        rank = a[1] if len(a) == 3 else 0
        expected_shapes: tuple[tuple[int, ...], ...] = ((experts, rank, inputs), (experts, outputs, rank))
    elif isinstance(module, (nn.Linear, nn.QuantizedLinear, nn.Embedding, nn.QuantizedEmbedding)):
        rows, columns = module.weight.shape
        if isinstance(module, (nn.QuantizedLinear, nn.QuantizedEmbedding)):
            columns = columns * 32 // module.bits
        embedding = isinstance(module, (nn.Embedding, nn.QuantizedEmbedding))
        inputs, outputs = (rows, columns) if embedding else (columns, rows)
        rank = a[-1] if len(a) == 2 else 0
        expected_shapes = ((inputs, rank), (rank, outputs))
    else:
        return "is not a module of this model that LoRA can change"
    return None if (a, b) == expected_shapes and rank > 0 else f"has shapes {a} and {b}, which do not fit the model"


def _verify(
    name: str, pairs: Mapping[str, LowRankPair], modules: Mapping[str, Any], dtype: Any | None
) -> dict[str, LowRankPair]:
    for module, pair in pairs.items():
        if (reason := _misfit(modules.get(module), pair)) is not None:
            raise adapter_error(name, f"{module} {reason}")
    cast_pairs = {
        module: LowRankPair(a=pair.a.astype(dtype or pair.a.dtype), b=pair.b.astype(dtype or pair.b.dtype))
        for module, pair in pairs.items()
    }
    _refuse_unhealthy(name, cast_pairs)
    return cast_pairs


def _refuse_unhealthy(name: str, pairs: Mapping[str, LowRankPair]) -> None:
    modules = list(pairs)
    finite = mx.stack([mx.all(mx.isfinite(pair.a)) & mx.all(mx.isfinite(pair.b)) for pair in pairs.values()])
    alive = mx.stack([mx.any(pair.b != 0) for pair in pairs.values()])
    mx.eval(finite, alive, [(pair.a, pair.b) for pair in pairs.values()])
    verdicts: Any = zip(modules, finite.tolist(), alive.tolist(), strict=True)  # type: ignore[arg-type]
    for module, is_finite, is_alive in verdicts:
        if not is_finite:
            raise adapter_error(name, f"{module} holds a number that is not finite")
        if not is_alive:
            raise adapter_error(name, f"{module}.lora_b is all zeros, so it changes nothing")
