"""An episode blended with its neighbours in the session: "Yes, in Lisbon." is found by the question before it.

An episode's vector and its words both take a share of the neighbours': the vector as a weighted, normalised sum,
the words as weighted counts. The shares halve with the distance. Measured by ``kiki bench locomo``; see
docs/explain/ranking.md.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from agents.memory.text.words import Counts, weighted_sum

RADIUS = 3
"""Episodes on either side that take part."""

WORD_SHARES = {1: 0.5, 2: 0.25, 3: 0.125}
VECTOR_SHARES = {1: 0.4, 2: 0.2}

Vector = NDArray[np.float32]


class OwnFeatures(Struct, frozen=True, eq=False):
    """An episode by itself: its unit vector (None where it has no embedding) and its words."""

    vector: Vector | None
    counts: Counts


class ContextFeatures(Struct, frozen=True, eq=False):
    """An episode with its neighbours: the blended unit vector (None without an own embedding) and words."""

    vector: Vector | None
    counts: Counts


def windows(order: Sequence[str], changed: Iterable[str]) -> dict[str, dict[int, str]]:
    """For each key within :data:`RADIUS` of a changed one: its neighbours by distance, itself at 0.

    ``order`` holds the keys of one session's episodes, oldest first.
    """
    at = {name: place for place, name in enumerate(order)}
    places = {at[name] for name in changed if name in at}
    near_places = {
        place
        for changed_place in places
        for place in range(max(0, changed_place - RADIUS), min(len(order), changed_place + RADIUS + 1))
    }
    return {order[place]: _window(order, place) for place in sorted(near_places)}


def windows_without(name: str, order: Sequence[str]) -> dict[str, dict[int, str]]:
    """The windows that change when a key leaves a session's ``order``; none where it is not in it."""
    if name not in order:
        return {}
    place = order.index(name)
    left = [*order[:place], *order[place + 1 :]]
    return windows(left, left[max(0, place - 1) : place + 1])


def blend_neighbours(window: Mapping[int, str], own: Mapping[str, OwnFeatures]) -> ContextFeatures:
    """The episode at distance 0 with its neighbours' shares. A neighbour that is not in ``own`` is left out."""
    present = [(distance, own[name]) for distance, name in sorted(window.items()) if name in own]
    counts = weighted_sum(
        (WORD_SHARES.get(abs(distance), 0.0) if distance else 1.0, features.counts) for distance, features in present
    )
    centre = own[window[0]].vector
    if centre is None:
        return ContextFeatures(None, counts)
    total = np.zeros_like(centre, dtype=np.float64)
    for distance, features in present:
        share = VECTOR_SHARES.get(abs(distance), 0.0) if distance else 1.0
        if features.vector is not None and share:
            total += share * features.vector
    return ContextFeatures(unit(total), counts)


def unit(vector: Sequence[float] | NDArray[np.float64] | Vector) -> Vector:
    """The vector at length 1; a zero vector stays zero."""
    raw = np.asarray(vector, dtype=np.float64)
    norm = float(np.linalg.norm(raw))
    return (raw / norm if norm else raw).astype(np.float32)


def packed(vector: Vector | None) -> str | None:
    """The vector as half-floats in base64, for JSON: a third of the size of the numbers written out."""
    return None if vector is None else base64.b64encode(vector.astype(np.float16).tobytes()).decode()


def unpacked(text: str | None) -> Vector | None:
    """The vector that :func:`packed` made into text."""
    return None if text is None else np.frombuffer(base64.b64decode(text), dtype=np.float16).astype(np.float32)


def rounded(vector: Vector) -> Vector:
    """The vector as :func:`unpacked` would give it: results must not depend on whether a vector was stored and read
    back."""
    return vector.astype(np.float16).astype(np.float32)


def _window(order: Sequence[str], place: int) -> dict[int, str]:
    first, last = max(0, place - RADIUS), min(len(order), place + RADIUS + 1)
    return {neighbour - place: order[neighbour] for neighbour in range(first, last)}
