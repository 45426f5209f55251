"""A LoRA adapter as pairs of matrices, read from and written to mlx-lm's layout. NumPy, float32.

The change of a module is ``left @ right``: of a linear layer (inputs, r) @ (r, outputs), of an embedding (tokens, r) @
(r, width), of E experts (E, outputs, r) @ (E, r, inputs). The adapter's scale is folded into the
factors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as parse
from safetensors.numpy import save

from schemas.errors import StageFailed

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Factors:
    """The two sides of one module's change."""

    left: Array
    right: Array

    @property
    def change(self) -> Array:
        """The whole matrix, or one for each expert."""
        product: Array = self.left @ self.right
        return product

    @property
    def rank(self) -> int:
        """The inner width."""
        return int(self.left.shape[-1])

    @property
    def norm(self) -> float:
        """Frobenius norm of the change, over all experts, without making the matrix."""
        return float(np.sqrt(max(0.0, inner(self, self))))


Weights = Mapping[str, Factors]
"""Factors by the path of the module that they change."""


def load(name: str, data: bytes, *, scale: float) -> dict[str, Factors]:
    """The adapter in a safetensors file of mlx-lm's layout.

    Raises:
        StageFailed: code ``adapter_failed``: the data is not such a file.
    """
    try:
        tensors = {key: np.asarray(value, dtype=np.float32) for key, value in parse(data).items()}
    except Exception as error:
        raise StageFailed(
            f"adapter '{name}' cannot be read: {error}.", code="adapter_failed", param="adapter"
        ) from error
    paths = sorted({key.rpartition(".")[0] for key in tensors})
    if not paths or {f"{path}.{leaf}" for path in paths for leaf in ("lora_a", "lora_b")} != set(tensors):
        raise StageFailed(
            f"adapter '{name}' has not one lora_a for each lora_b.", code="adapter_failed", param="adapter"
        )
    return {path: _factors(tensors[f"{path}.lora_a"], tensors[f"{path}.lora_b"] * np.float32(scale)) for path in paths}


def dump(weights: Weights, *, scale: float) -> bytes:
    """The safetensors file of an adapter whose configuration says ``scale``; equal weights give equal bytes."""
    tensors: dict[str, Any] = {}
    for path, factors in sorted(weights.items()):
        a, b = (factors.right, factors.left) if factors.left.ndim == 3 else (factors.left, factors.right)
        tensors[f"{path}.lora_a"] = np.ascontiguousarray(a, dtype=np.float32)
        tensors[f"{path}.lora_b"] = np.ascontiguousarray(b / scale, dtype=np.float32)
    data: bytes = save(tensors)
    return data


def inner(first: Factors, second: Factors) -> float:
    """The sum over all entries of the product of two changes."""
    product = np.swapaxes(first.left, -1, -2).astype(np.float64) @ second.left
    return float(np.sum(product * (first.right.astype(np.float64) @ np.swapaxes(second.right, -1, -2))))


def downscaled(weights: Weights, factor: float) -> dict[str, Factors]:
    """Every change made smaller by ``factor`` in (0, 1]: synaptic homeostasis (Tononi and Cirelli) on the adapter."""
    return {path: Factors(factors.left, factors.right * np.float32(factor)) for path, factors in weights.items()}


def size(weights: Weights) -> int:
    """Numbers in all factors."""
    return sum(factors.left.size + factors.right.size for factors in weights.values())


def _factors(a: Array, b: Array) -> Factors:
    return Factors(b, a) if a.ndim == 3 else Factors(a, b)
