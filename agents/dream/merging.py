"""Recombine: merges adapters where they agree (TIES, arXiv 2306.01708), and reduces the result to a low rank.

Trim each change to its largest entries, elect a sign for each entry by their sum, and take the mean of the
entries that have it. The paper trims over all of a model's parameters; here each module is trimmed by itself, so that
no more than one module's matrices are in memory.
"""

from collections.abc import Sequence

import numpy as np

from agents.shared.adapters.low_rank import Array, Factors, Weights


def trimmed(change: Array, density: float) -> Array:
    """The ``density`` (0, 1] of entries with the largest magnitude, the others zero; entries that equal
    the smallest of them stay too."""
    flat = np.abs(change).ravel()
    keep = max(1, int(np.ceil(density * flat.size)))
    smallest = np.partition(flat, flat.size - keep)[flat.size - keep]
    largest: Array = np.where(np.abs(change) >= smallest, change, 0.0)
    return largest


def elect_sign(changes: Sequence[Array]) -> Array:
    """The sign (-1, 0, 1) that the changes' sum has in each entry."""
    sign: Array = np.sign(np.sum(changes, axis=0))
    return sign


def merge_by_ties(changes: Sequence[Array], *, density: float, scale: float = 1.0) -> Array:
    """The merged change of one module, times ``scale`` (the paper's lambda). ``changes`` have one shape."""
    trimmed_changes = [trimmed(change, density) for change in changes]
    sign = elect_sign(trimmed_changes)
    agreeing = [np.where(np.sign(change) == sign, change, 0.0) for change in trimmed_changes]
    count = np.sum([change != 0.0 for change in agreeing], axis=0)
    merged: Array = np.sum(agreeing, axis=0) / np.maximum(count, 1) * scale
    return merged


def low_rank(change: Array, rank: int) -> Factors:
    """The nearest change of at most ``rank`` (Eckart and Young); the singular values go half to each side."""
    left, sizes, right = np.linalg.svd(change.astype(np.float64), full_matrices=False)
    width = min(rank, sizes.shape[-1])
    roots = np.sqrt(sizes[..., :width])
    return Factors(
        (left[..., :width] * roots[..., None, :]).astype(np.float32),
        (roots[..., :, None] * right[..., :width, :]).astype(np.float32),
    )


def recombine(adapters: Sequence[Weights], *, density: float, scale: float = 1.0) -> dict[str, Factors]:
    """All modules of all adapters merged; a module's rank is the largest that an adapter has there."""
    factors_by_path: dict[str, Factors] = {}
    for path in sorted({path for weights in adapters for path in weights}):
        parts = [weights[path] for weights in adapters if path in weights]
        merged = merge_by_ties([factors.change for factors in parts], density=density, scale=scale)
        factors_by_path[path] = low_rank(merged, max(factors.rank for factors in parts))
    return factors_by_path


def flops(adapters: Sequence[Weights]) -> float:
    """Estimated operations of :func:`recombine`: the changes, and a singular value decomposition of each merged one."""
    cost = 0.0
    for path in {path for weights in adapters for path in weights}:
        parts = [weights[path] for weights in adapters if path in weights]
        rows, columns = parts[0].left.shape[-2], parts[0].right.shape[-1]
        experts = parts[0].left.size // (rows * parts[0].rank)
        cost += experts * rows * columns * (2.0 * sum(factors.rank for factors in parts) + 14.0 * min(rows, columns))
    return cost
