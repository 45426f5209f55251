"""Groups old episodes for summaries. Equal episodes give an equal plan, so that a killed sleep can continue it."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import numpy as np
from msgspec import Struct

from agents.memory.context import Vector
from agents.memory.settings import MemorySettings

BLOCK = 1000
"""Episodes that are compared with each other at a time, in the order of the record; the work grows with its square."""


class OldEpisode(Struct, frozen=True, kw_only=True):
    """An old episode of one tenant; ``seq`` is its place in the record."""

    episode_id: str
    turn_id: str
    seq: int
    created_at: float
    text: str
    vector: Vector


def plan_summaries(episodes: Iterable[OldEpisode], *, settings: MemorySettings) -> list[tuple[OldEpisode, ...]]:
    """The groups that get one summary each, oldest group first; each group is in the order of time."""
    by_seq = sorted(episodes, key=lambda episode: episode.seq)
    blocks = (by_seq[at : at + BLOCK] for at in range(0, len(by_seq), BLOCK))
    parts = [
        part
        for block in blocks
        for group in group_alike(block, settings.sleep_alike)
        for part in _split_group(group, settings)
    ]
    return sorted(parts, key=lambda part: (part[-1].created_at, part[-1].episode_id))


def group_alike(episodes: Sequence[OldEpisode], least: float) -> Iterator[list[OldEpisode]]:
    """Groups whose members have a mean cosine of at least ``least`` (agglomerative, average linkage)."""
    if len(episodes) < 2:
        return
    from sklearn.cluster import AgglomerativeClustering  # takes 90 MB, and most processes never sleep

    clustering = AgglomerativeClustering(
        n_clusters=None, metric="cosine", linkage="average", distance_threshold=1.0 - least
    )
    labels = clustering.fit_predict(np.stack([episode.vector for episode in episodes]))
    label_places = sorted(zip(labels.tolist(), range(len(episodes)), strict=True))
    for _, members in groupby(label_places, key=lambda pair: pair[0]):
        yield [episodes[at] for _, at in members]


def _split_group(group: Sequence[OldEpisode], settings: MemorySettings) -> Iterator[tuple[OldEpisode, ...]]:
    """The group in pieces of nearly equal size, each small enough for one summary; none when the group is too small."""
    if len(group) < settings.sleep_least:
        return
    in_time = sorted(group, key=lambda episode: (episode.created_at, episode.episode_id))
    pieces = -(-len(in_time) // settings.sleep_most)
    for piece in range(pieces):
        yield tuple(in_time[len(in_time) * piece // pieces : len(in_time) * (piece + 1) // pieces])
