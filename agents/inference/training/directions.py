"""The leading singular directions of the frozen weights: what OPLoRA (arXiv 2510.13003) protects from an adapter."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from agents.inference.adapters.mixed import EMBEDDINGS, SWITCHES
from agents.inference.int8.conversion import wide_weight

Array = NDArray[np.floating[Any]]


def frozen_weights(module: Any) -> Array:
    """A module's weights in the orientation of an adapter's change (see :mod:`agents.inference.adapters.files`),
    float32."""
    matrix = np.array(wide_weight(module).astype(mx.float32))
    return matrix if isinstance(module, (*SWITCHES, *EMBEDDINGS)) else matrix.T


def leading_directions(matrix: Array, k: int) -> tuple[Array, Array]:
    """Orthonormal columns (..., rows, k) and (..., columns, k) of the ``k`` largest singular values; fewer if it has
    fewer. From the smaller side's Gram matrix, in float64."""
    doubles = matrix.astype(np.float64)
    is_transposed = doubles.shape[-2] < doubles.shape[-1]
    if is_transposed:
        doubles = np.swapaxes(doubles, -1, -2)
    width = min(k, doubles.shape[-1])
    _, vectors = np.linalg.eigh(np.swapaxes(doubles, -1, -2) @ doubles)
    right = vectors[..., ::-1][..., :width]
    left, _ = np.linalg.qr(doubles @ right)
    return (right, left) if is_transposed else (left, right)


def dump_directions(directions: Mapping[str, tuple[Array, Array]]) -> bytes:
    """A safetensors file with ``<module>.left`` and ``<module>.right``."""
    tensors = {}
    for path, (left, right) in sorted(directions.items()):
        tensors[f"{path}.left"] = np.ascontiguousarray(left, dtype=np.float32)
        tensors[f"{path}.right"] = np.ascontiguousarray(right, dtype=np.float32)
    data: bytes = save(tensors)
    return data
