"""Restructure: removes protected directions from an adapter's change (OPLoRA, arXiv 2510.13003).

With orthonormal columns U of what is protected on the left side and V on the right, the change ``L @ R`` becomes
``(I - U U^T) L @ R (I - V V^T)``: it neither reads nor writes a protected direction. The paper protects the k leading
singular directions of the frozen weights; adapters that were learned before are protected in the same way.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from agents.shared.adapters.low_rank import Array, Factors, Weights

GONE = 1e-5
"""Share of a module's norm under which what is left of its change is only rounding."""

DEPENDENT = 1e-6
"""Share of the largest singular value under which a direction is only rounding."""


@dataclass(frozen=True)
class ProtectedDirections:
    """Orthonormal columns, ``left`` (..., rows, k) and ``right`` (..., columns, k); one of zeros protects nothing."""

    left: Array
    right: Array


def span(columns: Array) -> Array:
    """Orthonormal columns that span what ``columns`` (..., m, c) span; the dependent ones come back as zeros."""
    basis, sizes, _ = np.linalg.svd(columns.astype(np.float64), full_matrices=False)
    independent = sizes > DEPENDENT * np.max(sizes, axis=-1, keepdims=True, initial=0.0)
    result: Array = basis * independent[..., None, :]
    return result


def directions_of(factors: Factors) -> ProtectedDirections:
    """The directions that another adapter's module reads and writes."""
    return ProtectedDirections(span(factors.left), span(np.swapaxes(factors.right, -1, -2)))


def union(parts: Iterable[ProtectedDirections]) -> ProtectedDirections:
    """Directions that protect all that any of ``parts`` protects."""
    all_parts = list(parts)
    return ProtectedDirections(
        span(np.concatenate([part.left for part in all_parts], axis=-1)),
        span(np.concatenate([part.right for part in all_parts], axis=-1)),
    )


def projected(factors: Factors, protected: ProtectedDirections) -> Factors:
    """The change without its part in the protected directions; float64 within, float32 out."""
    left, right = factors.left.astype(np.float64), factors.right.astype(np.float64)
    left = left - protected.left @ (np.swapaxes(protected.left, -1, -2) @ left)
    right = right - (right @ protected.right) @ np.swapaxes(protected.right, -1, -2)
    return Factors(left.astype(np.float32), right.astype(np.float32))


def restructure(
    weights: Weights, protected: Mapping[str, ProtectedDirections]
) -> tuple[dict[str, Factors], tuple[str, ...]]:
    """Project all modules. Also returns the paths of modules whose whole change was removed; they are left out."""
    factors_by_path: dict[str, Factors] = {}
    removed_paths: list[str] = []
    for path, factors in weights.items():
        after = projected(factors, protected[path]) if path in protected else factors
        if path in protected and after.norm <= GONE * factors.norm:
            removed_paths.append(path)
        else:
            factors_by_path[path] = after
    return factors_by_path, tuple(sorted(removed_paths))


def flops(weights: Weights, protected: Mapping[str, ProtectedDirections]) -> float:
    """Estimated operations of :func:`restructure`: two products a side, each multiplication and addition counted."""
    cost = 0.0
    for path in weights.keys() & protected.keys():
        columns = protected[path].left.shape[-1]
        cost += 4.0 * columns * (weights[path].left.size + weights[path].right.size)
    return cost
