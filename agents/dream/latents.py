"""Latent samples between snapshots of the delta ring: spherical interpolation (Shoemake, 1985)."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from agents.shared.adapters.low_rank import Array
from schemas.dream import LatentSample

NEARLY_PARALLEL = 1e-6


def interpolate(start: Array, end: Array, share: float) -> Array:
    """The vector ``share`` (0..1) of the way along the arc from ``start`` to ``end``; lengths go linearly."""
    lengths = float(np.linalg.norm(start)), float(np.linalg.norm(end))
    straight: Array = (1.0 - share) * start + share * end
    if not all(lengths):
        return straight
    a, b = start / lengths[0], end / lengths[1]
    arc = float(np.arccos(np.clip(a @ b, -1.0, 1.0)))
    if np.sin(arc) < NEARLY_PARALLEL:
        return straight
    direction = (np.sin((1.0 - share) * arc) * a + np.sin(share * arc) * b) / np.sin(arc)
    return np.asarray(direction * ((1.0 - share) * lengths[0] + share * lengths[1]))


def draw_samples(snapshots: Sequence[Mapping[str, Sequence[float]]], *, episode_id: str) -> tuple[LatentSample, ...]:
    """One sample a species between two of its snapshots; the two, and the place
    between them, are drawn at random with the episode's id as seed.

    A species is left out unless at least two snapshots hold it with the same width.
    """
    seed = int.from_bytes(hashlib.sha256(episode_id.encode()).digest()[:8], "big")
    random = np.random.default_rng(seed)
    latent_samples: list[LatentSample] = []
    for species in sorted({name for snapshot in snapshots for name in snapshot}):
        vectors = [np.asarray(snapshot[species], np.float64) for snapshot in snapshots if species in snapshot]
        vectors = [vector for vector in vectors if vector.shape == vectors[0].shape]
        if len(vectors) < 2:
            continue
        first, second = sorted(int(index) for index in random.choice(len(vectors), size=2, replace=False))
        share = float(random.random())
        vector = interpolate(vectors[first], vectors[second], share)
        provenance = f"recombine:{episode_id}:{first}-{second}@{share:.4f}"
        latent_samples.append(
            LatentSample(species=species, latent_vector=tuple(float(x) for x in vector), provenance=provenance)
        )
    return tuple(latent_samples)
