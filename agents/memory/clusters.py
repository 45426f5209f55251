"""Which old episodes belong together: a plan that is the same whenever it is made of the same episodes."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import numpy as np
from msgspec import Struct
from sklearn.cluster import AgglomerativeClustering

from agents.memory.context import Vector
from agents.memory.settings import MemorySettings

BLOCK = 1000
"""Episodes that are compared with each other, in the order of the record: the work grows with its square."""


class Old(Struct, frozen=True, kw_only=True):
    """An old episode of one tenant; ``seq`` is its place in the record."""

    episode_id: str
    turn_id: str
    seq: int
    created_at: float
    text: str
    vector: Vector


def plan(episodes: Iterable[Old], *, settings: MemorySettings) -> list[tuple[Old, ...]]:
    """What to sum up, oldest first, each in the order of time."""
    ordered = sorted(episodes, key=lambda one: one.seq)
    blocks = (ordered[at : at + BLOCK] for at in range(0, len(ordered), BLOCK))
    found = [
        part for block in blocks for group in alike(block, settings.sleep_alike) for part in _parts(group, settings)
    ]
    return sorted(found, key=lambda part: (part[-1].created_at, part[-1].episode_id))


def alike(episodes: Sequence[Old], least: float) -> Iterator[list[Old]]:
    """Groups whose members have a mean cosine of at least ``least`` (agglomerative, average linkage)."""
    if len(episodes) < 2:
        return
    found = AgglomerativeClustering(n_clusters=None, metric="cosine", linkage="average", distance_threshold=1.0 - least)
    labels = found.fit_predict(np.stack([one.vector for one in episodes]))
    labelled = sorted(zip(labels.tolist(), range(len(episodes)), strict=True))
    for _, members in groupby(labelled, key=lambda pair: pair[0]):
        yield [episodes[at] for _, at in members]


def _parts(group: Sequence[Old], settings: MemorySettings) -> Iterator[tuple[Old, ...]]:
    """The group in pieces of nearly equal size that a summary can hold; none when it is too small for one."""
    if len(group) < settings.sleep_least:
        return
    in_time = sorted(group, key=lambda one: (one.created_at, one.episode_id))
    pieces = -(-len(in_time) // settings.sleep_most)
    for piece in range(pieces):
        yield tuple(in_time[len(in_time) * piece // pieces : len(in_time) * (piece + 1) // pieces])
