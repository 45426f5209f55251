"""Makes the linear layers, embeddings and heads of a loaded model int8, and keeps the rounded numbers in a file."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from agents.inference.int8.attention import Rotary
from agents.inference.int8.blocks import FAMILIES, HiddenNorm, make_whole
from agents.inference.int8.kernel import Floats
from agents.inference.int8.layers import REMAINDER_STEP, Int8Embedding, Int8Head, Int8Linear, Int8Matrix, Product, align
from agents.shared.disk import replace_file
from bus.metrics import count_degraded

RECIPE = "2"
"""Raise it when the numbers in the file would be others, so that older files are written again."""

LINEAR, EMBEDDINGS = (nn.Linear, nn.QuantizedLinear), (nn.Embedding, nn.QuantizedEmbedding)

ATTENTION, GATED = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
"""Layers of one module that get the same input: their weights are one matrix."""

CHUNK = 4 * 1024**2
"""Weights that are rounded at once."""


@dataclass(frozen=True)
class LayerGroup:
    """Layers of ``parent`` with the same input; ``path`` names the group."""

    path: str
    parent: Any
    names: tuple[str, ...]

    @property
    def layers(self) -> list[Any]:
        """The layers, in the order of their outputs in the group's matrix."""
        return [self.parent[name] for name in self.names]

    @property
    def is_read_by_row(self) -> bool:
        """Whether single rows are read beside whole products: those of tokens, and those of the largest logits."""
        return self.names == ("lm_head",) or type(self.layers[0]) in EMBEDDINGS


def convert(model: Any, file: Path | None = None) -> None:
    """Replace the layers of ``model``, which is then in inference mode.

    With ``file``, what was rounded is read from there, or written there for the next time.
    """
    stored = _read(file) if file is not None else {}
    matrices: dict[str, Int8Matrix] = {}
    for group in list(find_groups(model)):
        matrices[group.path] = stored.get(group.path) or quantise(
            [wide_weight(layer) for layer in group.layers], exact=group.is_read_by_row
        )
        _replace(group, matrices[group.path])
        mx.clear_cache()  # frees the weights as they were stored
    if file is not None and matrices.keys() != stored.keys():
        _write(file, matrices)
    if isinstance(model, FAMILIES):
        _make_whole(model, matrices)
    model.eval()


def find_groups(model: Any) -> Iterator[LayerGroup]:
    """Every layer that can be replaced, in groups of those with the same input."""
    for path, parent in model.named_modules():
        names = [name for name, child in parent.children().items() if type(child) in (*LINEAR, *EMBEDDINGS)]
        groups: list[tuple[str, ...]] = [siblings for siblings in (ATTENTION, GATED) if set(siblings) <= set(names)]
        groups += [(name,) for name in names if not any(name in siblings for siblings in groups)]
        for group in groups:
            yield LayerGroup(f"{path}.{'+'.join(group)}".lstrip("."), parent, group)


def find_largest(model: Any) -> Any:
    """The layer with the most weights among those that can be replaced; None when there is none."""
    layers = [layer for group in find_groups(model) for layer in group.layers]
    return max(layers, key=lambda layer: int(layer.weight.size), default=None)


def wide_weight(layer: Any) -> mx.array:
    """The weights of a linear layer or an embedding in floating point, (outputs, inputs)."""
    if isinstance(layer, (Int8Linear, Int8Head, Int8Embedding)):
        return layer.wide_weight
    if hasattr(layer, "bits"):
        biases = layer.get("biases")
        return mx.dequantize(layer.weight, layer.scales, biases, group_size=layer.group_size, bits=layer.bits)
    weight: mx.array = layer.weight
    return weight


def quantise(weights: Sequence[mx.array], *, exact: bool = False) -> Int8Matrix:
    """Round the weights (outputs, inputs) of layers with the same input to one matrix; ``exact``: with remainders.

    A column's factor is the square root of its largest number, which spares the small columns the rounding of the large
    ones: it halves the error of the worst layers.
    """
    inputs = weights[0].shape[1]
    step = max(1, CHUNK // inputs)
    parts = [weight[start : start + step] for weight in weights for start in range(0, len(weight), step)]
    largest = [np.array(mx.max(mx.abs(part), axis=0).astype(mx.float32)) for part in parts]
    factors = np.sqrt(np.maximum(np.max(largest, axis=0), 1e-12))
    numbers = np.empty((sum(map(len, parts)), inputs), np.int8)
    remainders = np.empty_like(numbers) if exact else None
    scales = np.empty(len(numbers), np.float32)
    begin = 0
    for part in parts:
        rows = slice(begin, begin + len(part))
        wide = np.array(part.astype(mx.float32)) / factors
        scales[rows] = round_up_to_bfloat16(np.maximum(np.abs(wide).max(axis=1) / 127, 1e-30))
        wide /= scales[rows, None]
        numbers[rows] = np.rint(wide)
        if remainders is not None:
            remainders[rows] = np.rint((wide - numbers[rows]) / REMAINDER_STEP)
        begin = rows.stop
    return Int8Matrix(
        numbers=align(mx.array(numbers)),
        scales=mx.array(scales),
        factors=mx.array(factors),
        remainders=None if remainders is None else mx.array(remainders),
    )


def round_up_to_bfloat16(numbers: Floats) -> Floats:
    """The next larger numbers that bfloat16 holds exactly; ``numbers`` are positive."""
    bits = numbers.view(np.uint32) + np.uint32(0xFFFF)
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


def _make_whole(model: Any, matrices: Mapping[str, Int8Matrix]) -> None:
    first = model.layers[0].self_attn
    width = first.q_proj.weight.shape[0] // first.n_heads
    rotary = Rotary(first.rope) if Rotary.fits(first.rope, width) else None
    for number, block in enumerate(model.layers):
        attention, mlp = (f"model.layers.{number}.{name}." for name in ("self_attn", "mlp"))
        queries_keys_values = Product(matrices[attention + "+".join(ATTENTION)])
        make_whole(block, queries_keys_values, Product(matrices[mlp + "+".join(GATED)]), rotary)
    model.model.norm = HiddenNorm(model.model.norm)


def _replace(group: LayerGroup, matrix: Int8Matrix) -> None:
    layers = group.layers
    parts = matrix.split([int(layer.weight.shape[0]) for layer in layers])
    for name, layer, part in zip(group.names, layers, parts, strict=True):
        if type(layer) in EMBEDDINGS:
            replacement: Any = Int8Embedding(part)
        elif name == "lm_head":
            replacement = Int8Head(part)
        else:
            replacement = Int8Linear(part, layer.get("bias"))
        group.parent[name] = replacement


def _read(file: Path) -> dict[str, Int8Matrix]:
    """The matrices of a file that :func:`_write` wrote, by group; none when it is missing, damaged or of another
    recipe."""
    try:
        loaded: Any = mx.load(str(file), format="safetensors", return_metadata=True)
        arrays, metadata = loaded
        if metadata.get("recipe") != RECIPE:
            return {}
        parts: defaultdict[str, dict[str, mx.array]] = defaultdict(dict)
        while arrays:  # so that what was aligned is not held twice
            name, array = arrays.popitem()
            path, _, part = name.rpartition(".")
            parts[path][part] = align(array) if part == "numbers" else array
        return {path: Int8Matrix(**arrays) for path, arrays in parts.items()}
    except (OSError, RuntimeError, ValueError, TypeError):
        return {}


def _write(file: Path, matrices: Mapping[str, Int8Matrix]) -> None:
    arrays = {
        f"{path}.{part}": array
        for path, matrix in matrices.items()
        for part, array in vars(matrix).items()
        if array is not None
    }
    try:
        with replace_file(file) as temporary:
            mx.save_safetensors(str(temporary), arrays, metadata={"recipe": RECIPE})
    except (OSError, RuntimeError) as error:
        count_degraded("inference.int8", f"{file} cannot be written, so each start rounds again: {error}")
