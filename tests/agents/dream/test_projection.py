"""Properties of OPLoRA's projection."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.dream.projection import (
    ProtectedDirections,
    directions_of,
    projected,
    restructure,
    span,
    union,
)
from agents.shared.adapters.low_rank import Factors, downscaled
from tests.agents.shared.adapters.samples import experts, factors, seeds


def leading(weight: Any, k: int) -> ProtectedDirections:
    left, _, right = np.linalg.svd(weight.astype(np.float64), full_matrices=False)
    return ProtectedDirections(left[..., :k], np.swapaxes(right, -1, -2)[..., :k])


def interference(change: Factors, protected: ProtectedDirections) -> float:
    """The share of the change's squared norm that reads or writes protected directions (the paper's rho), 0..1."""
    whole = change.norm**2
    return max(0.0, 1.0 - projected(change, protected).norm ** 2 / whole) if whole else 0.0


@given(seeds, experts)
def test_a_projected_change_neither_reads_nor_writes_protected_directions(seed: int, batch: tuple[int, ...]) -> None:
    protected = union([directions_of(factors(seed + 1, batch)), directions_of(factors(seed + 2, batch))])
    remainder = projected(factors(seed, batch), protected).change
    assert np.abs(np.swapaxes(protected.left, -1, -2) @ remainder).max() < 1e-4
    assert np.abs(remainder @ protected.right).max() < 1e-4


@given(seeds, experts)
def test_projecting_twice_is_projecting_once(seed: int, batch: tuple[int, ...]) -> None:
    protected = directions_of(factors(seed + 1, batch))
    once = projected(factors(seed, batch), protected)
    np.testing.assert_allclose(projected(once, protected).change, once.change, atol=1e-4)
    assert once.norm <= factors(seed, batch).norm * (1 + 1e-5)


@settings(max_examples=30)
@given(seeds, st.integers(1, 5))
def test_the_leading_singular_triples_of_the_base_stay(seed: int, k: int) -> None:
    """The paper's theorem, for a base whose leading values stand clear of the rest and of the change."""
    random = np.random.default_rng(seed)
    left, _ = np.linalg.qr(random.standard_normal((12, 9)))
    right, _ = np.linalg.qr(random.standard_normal((9, 9)))
    sizes = np.concatenate([1000.0 * np.arange(k, 0, -1), np.linspace(1.0, 0.1, 9 - k)])
    base = left * sizes @ right.T
    after = base + projected(factors(seed), leading(base, k)).change
    u, s, vt = np.linalg.svd(after)
    np.testing.assert_allclose(s[:k], sizes[:k], rtol=1e-6)
    np.testing.assert_allclose(np.abs(np.sum(u[:, :k] * left[:, :k], axis=0)), 1.0, rtol=1e-6)
    np.testing.assert_allclose(np.abs(np.sum(vt[:k].T * right[:, :k], axis=0)), 1.0, rtol=1e-6)


@given(seeds, st.floats(0.05, 1.0))
def test_downscaling_commutes_with_the_projection(seed: int, factor: float) -> None:
    protected = directions_of(factors(seed + 1))
    downscaled_first = projected(downscaled({"m": factors(seed)}, factor)["m"], protected)
    projected_first = downscaled({"m": projected(factors(seed), protected)}, factor)["m"]
    np.testing.assert_allclose(downscaled_first.change, projected_first.change, atol=1e-4)


@given(seeds)
def test_a_span_is_orthonormal_and_drops_what_depends(seed: int) -> None:
    columns = np.random.default_rng(seed).standard_normal((8, 3))
    basis = span(np.concatenate([columns, columns @ np.ones((3, 2))], axis=1))
    gram = basis.T @ basis
    np.testing.assert_allclose(gram, np.diag([1.0, 1.0, 1.0, 0.0, 0.0]), atol=1e-9)
    np.testing.assert_allclose(basis @ (basis.T @ columns), columns, atol=1e-8)


def test_a_module_that_only_repeats_another_adapter_is_taken_away() -> None:
    mine, theirs = {"kept": factors(1), "gone": factors(2), "free": factors(3)}, factors(4)
    protected = {"kept": directions_of(theirs), "gone": directions_of(factors(2))}
    after, removed_paths = restructure(mine, protected)
    assert removed_paths == ("gone",)
    assert set(after) == {"kept", "free"}
    assert after["free"] is mine["free"]
    assert interference(after["kept"], protected["kept"]) == pytest.approx(0.0, abs=1e-5)
    assert interference(mine["gone"], protected["gone"]) == pytest.approx(1.0, abs=1e-5)
