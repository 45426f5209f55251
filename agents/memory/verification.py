"""Compares the stores with the record, text and vectors included, and the record with its own sequences.

The record is read once, in batches, and each batch is compared with what Atlas and Trace hold of it. What depends on a
session's other episodes (the order, and the vectors that Atlas blends with the neighbours') is compared afterwards. Of
each episode only its key, id and place in its session stay in memory.
"""

import binascii
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing
from itertools import pairwise, zip_longest
from typing import Any, Literal, TypeVar

import numpy as np

from agents.memory.context import OwnFeatures, blend_neighbours, rounded, unit, unpacked, windows
from agents.memory.embedding import is_stale
from agents.memory.episodes import session_key, store_key
from agents.memory.progress import lag, read_progress
from agents.memory.stores.errors import StoreAway
from agents.memory.stores.pair import Stores
from agents.memory.stores.stored import OWN, StoredPoint, Windows, payload
from agents.memory.stores.trace import node_fields
from agents.memory.text.words import WordEncoder, bm25_weights
from bus.connection import Bus
from bus.record import read_entries_and_tombstones
from bus.stream import StreamSize, measure_stream
from bus.topology import EPISODES
from schemas.episode import Episode
from schemas.errors import Unavailable
from schemas.events import EpisodeForgotten, EpisodeRecorded
from schemas.memory import EpisodeDifference, VerifyReply, VerifyRequest

BATCH = 64
"""Episodes that are compared at a time. A recall waits for one such reading of a store at most."""

NAMED = 1000
"""Differences, and unrecorded episodes, that a reply names at most."""

StoreName = Literal["atlas", "trace"]
Found = TypeVar("Found")
_Place = tuple[float, str]
"""Where an episode stands in its session: its time and its key."""


async def verify(bus: Bus, stores: Stores, request: VerifyRequest) -> VerifyReply:
    """Compare the stores with the record, or a tenant's or user's part of both. Nothing is written meanwhile.

    Raises:
        Unavailable: the broker or a store's server is away.
    """
    async with stores.write_lock:
        return await _Verification(bus, stores, request).run()


class Gaps:
    """The sequences of a stream that a reading did not bring, as ranges; and those that a tombstone explains."""

    def __init__(self, first: int) -> None:
        self._next = first
        self._ranges: list[tuple[int, int]] = []
        self._erased_by_turn: dict[str, set[int]] = {}

    def pass_over(self, seq: int) -> None:
        """The message ``seq`` was read; what lies between it and the one before was not."""
        if seq > self._next:
            self._ranges.append((self._next, seq - 1))
        self._next = max(self._next, seq + 1)

    def explain(self, tombstone: EpisodeForgotten) -> None:
        """The tombstone's episode was erased on purpose."""
        self._erased_by_turn.setdefault(tombstone.envelope.turn_id, set()).update(tombstone.erased)

    def find_unexplained(self, last: int) -> list[tuple[int, int]]:
        """The ranges up to ``last`` that no tombstone explains.

        Tombstones of earlier versions do not say what they erased: each may stand for one sequence, whichever it is.
        """
        self.pass_over(last + 1)
        erased = sorted(seq for sequences in self._erased_by_turn.values() for seq in sequences)
        left = [part for gap in self._ranges for part in _cut(gap, erased)]
        silent = sum(not sequences for sequences in self._erased_by_turn.values())
        return left if sum(end - start + 1 for start, end in left) > silent else []


def _cut(gap: tuple[int, int], erased: Sequence[int]) -> list[tuple[int, int]]:
    """The parts of the range that hold none of the (sorted) sequences."""
    start, end = gap
    inside = [seq for seq in erased if start <= seq <= end]
    bounds = [start - 1, *inside, end + 1]
    return [(left + 1, right - 1) for left, right in pairwise(bounds) if right - left > 1]


class _Verification:
    def __init__(self, bus: Bus, stores: Stores, request: VerifyRequest) -> None:
        self._bus = bus
        self._stores = stores
        self._tenant, self._user = request.tenant, request.user
        self._words = WordEncoder(stores.settings.language)
        self._ids: dict[str, str] = {}
        self._sessions: dict[str, list[_Place]] = {}
        self._forgotten: set[str] = set()
        self._unreadable: list[int] = []
        self._held: dict[StoreName, set[str]] = {}
        self._differences: dict[tuple[str, StoreName], tuple[str, ...]] = {}
        self._damaged_vectors: set[str] = set()
        self._absent_edges: list[tuple[str, str, set[str]]] = []

    async def run(self) -> VerifyReply:
        atlas, trace = self._stores.atlas, self._stores.trace
        self._held["atlas"] = await atlas.keys(tenant=self._tenant, user=self._user)
        self._held["trace"] = await trace.keys(tenant=self._tenant, user=self._user)
        size = await measure_stream(self._bus, EPISODES)
        gaps = await self._compare_record(size)
        self._compare_edges()
        await self._compare_sessions()
        for key in self._damaged_vectors:
            self._set_difference(key, "atlas", {"vectors"})
        recorded = set(self._ids)
        unknown = {name: keys - recorded for name, keys in self._held.items()}
        differences = [
            EpisodeDifference(store=store, episode_id=self._ids[key], fields=fields)
            for (key, store), fields in sorted(self._differences.items())
        ]
        return VerifyReply(
            recorded=len(recorded),
            waiting=int(lag(await read_progress(self._bus))),
            missing_in_atlas=self._missing_in("atlas"),
            missing_in_trace=self._missing_in("trace"),
            unknown_in_atlas=len(unknown["atlas"]),
            unknown_in_trace=len(unknown["trace"]),
            unreadable=tuple(self._unreadable),
            different=len(differences),
            differences=tuple(differences[:NAMED]),
            unrecorded=await self._name_unrecorded(unknown),
            lost=tuple(gaps.find_unexplained(size.last_seq)),
            first_seq=size.first_seq,
        )

    def _missing_in(self, store: StoreName) -> tuple[str, ...]:
        return tuple(sorted(name for key, name in self._ids.items() if key not in self._held[store]))

    async def _compare_record(self, size: StreamSize) -> Gaps:
        """Read the record up to its present end and compare each batch with the stores."""
        gaps = Gaps(size.first_seq)
        batch: dict[str, tuple[Episode, float]] = {}
        if size.messages == 0:
            gaps.pass_over(size.last_seq)
            return gaps
        async with aclosing(read_entries_and_tombstones(self._bus, until=size.last_seq)) as entries:
            async for message, event in entries:
                gaps.pass_over(message.seq)
                if event is None:
                    self._unreadable.append(message.seq)
                elif isinstance(event, EpisodeForgotten):
                    gaps.explain(event)
                    self._forgotten.add(store_key(event.envelope.tenant, "episode", event.episode_id))
                elif self._concerns(event):
                    episode = event.episode
                    batch[self._note(episode)] = (episode, message.stored_at.timestamp())
                    if len(batch) == BATCH:
                        await self._compare_batch(batch)
                        batch = {}
        await self._compare_batch(batch)
        return gaps

    def _concerns(self, event: EpisodeRecorded) -> bool:
        return self._tenant in (None, event.episode.tenant) and self._user in (None, event.episode.user)

    def _note(self, episode: Episode) -> str:
        key = store_key(episode.tenant, "episode", episode.episode_id)
        if key not in self._ids:
            session = session_key(episode.tenant, episode.user, episode.session_id)
            self._sessions.setdefault(session, []).append((episode.created_at, key))
        self._ids[key] = episode.episode_id
        return key

    async def _compare_batch(self, batch: Mapping[str, tuple[Episode, float]]) -> None:
        names = [key for key in batch if key in self._held["atlas"]]
        points = await _read_each(self._stores.atlas.contents, names)
        for key in names:
            self._set_difference(key, "atlas", self._compare_point(batch[key][0], points.get(key)))
        names = [key for key in batch if key in self._held["trace"]]
        nodes = await _read_each(self._stores.trace.nodes, names)
        for key in names:
            self._set_difference(key, "trace", self._compare_node(key, *batch[key], nodes.get(key)))

    def _set_difference(self, key: str, store: StoreName, fields: Collection[str]) -> None:
        """An episode that the record has twice is compared as it was stored last."""
        self._differences.pop((key, store), None)
        if fields:
            self._differences[key, store] = tuple(sorted(fields))

    def _compare_point(self, episode: Episode, point: StoredPoint | None) -> set[str]:
        if point is None:
            return {"unreadable"}
        settings = self._stores.settings
        fits = len(episode.embedding) == settings.vector_size
        own = OwnFeatures(rounded(unit(episode.embedding)) if fits else None, {})
        expected = payload(episode, own)
        is_renewed = is_stale(episode, settings)  # with a vector that the record does not hold
        if is_renewed:
            expected.pop(OWN)
        fields = {field for field, value in expected.items() if not _is_same(point.payload.get(field), value)}
        vector = _own_vector(point)
        if is_renewed and (vector is None or len(vector) != settings.vector_size):
            fields.add(OWN)
        return fields

    def _compare_node(self, key: str, episode: Episode, recorded_at: float, node: Mapping[str, Any] | None) -> set[str]:
        if node is None:
            return {"unreadable"}
        fields = set()
        for field, value in node_fields(episode, recorded_at).items():
            if not isinstance(value, frozenset):
                if not _is_same(node[field], value):
                    fields.add(field)
            elif node[field] - value:
                fields.add(field)
            elif absent := value - node[field]:
                self._absent_edges.append((key, field, set(absent)))
        return fields

    def _compare_edges(self) -> None:
        """An edge may be missing where the other episode was forgotten; concepts have no such excuse."""
        for key, field, absent in self._absent_edges:
            if field == "concepts" or not absent.isdisjoint(self._ids):
                fields = self._differences.get((key, "trace"), ())
                self._set_difference(key, "trace", {*fields, field})

    async def _compare_sessions(self) -> None:
        followers: dict[str, str | None] = {}
        for order in self._orders("trace"):
            followers |= zip_longest(order, order[1:])
            if len(followers) >= BATCH:
                await self._compare_followers(followers)
                followers = {}
        await self._compare_followers(followers)
        near: dict[str, dict[int, str]] = {}
        for order in self._orders("atlas"):
            for key, window in windows(order, order).items():
                near[key] = window
                if len(near) == BATCH:
                    await self._compare_vectors(near)
                    near = {}
        await self._compare_vectors(near)

    def _orders(self, store: StoreName) -> Iterator[list[str]]:
        """The keys of each session's episodes that the store holds, oldest first."""
        for places in self._sessions.values():
            if order := [key for _, key in sorted(places) if key in self._held[store]]:
                yield order

    async def _compare_followers(self, followers: Mapping[str, str | None]) -> None:
        names = [*followers]
        for at in range(0, len(names), BATCH):
            part = names[at : at + BATCH]
            following = await self._stores.trace.following(part)
            for key in part:
                follower = followers[key]
                if following.get(key, set()) != ({follower} if follower else set()):
                    self._set_difference(key, "trace", {*self._differences.get((key, "trace"), ()), "next"})

    async def _compare_vectors(self, near: Windows) -> None:
        """Blend vectors and words again from what Atlas holds of each episode alone, which is compared already; where
        that differs, it cannot be said what the blend should be."""
        names = sorted({name for window in near.values() for name in window.values()})
        points = await _read_each(self._stores.atlas.contents, names)
        own = {name: self._own_features(point) for name, point in points.items()}
        for key, window in near.items():
            doubtful = any((name, "atlas") in self._differences for name in window.values())
            if not doubtful and key in points and not _agrees(points[key], window, own):
                self._damaged_vectors.add(key)

    def _own_features(self, point: StoredPoint) -> OwnFeatures:
        text = point.payload
        counts = self._words.counts(f"{text.get('question')}\n{text.get('answer')}")
        return OwnFeatures(_own_vector(point), counts)

    async def _name_unrecorded(self, unknown: Mapping[StoreName, set[str]]) -> tuple[str, ...]:
        """The ids of episodes that a store holds and of which the record has neither entry nor tombstone."""
        keys = sorted(set().union(*unknown.values()) - self._forgotten)[:NAMED]
        points = await _read_each(self._stores.atlas.contents, keys)
        ids = {key: str(point.payload.get("episode_id", key)) for key, point in points.items()}
        nodes = await _read_each(self._stores.trace.nodes, [key for key in keys if key not in ids])
        ids |= {key: str(node["episode_id"]) for key, node in nodes.items()}
        return tuple(sorted(ids.get(key, key) for key in keys))


async def _read_each(
    read: Callable[[Sequence[str]], Awaitable[dict[str, Found]]], names: Sequence[str]
) -> dict[str, Found]:
    """Read these entries; where that fails, one by one, without those that cannot be read."""
    if not names:
        return {}
    try:
        return await read(names)
    except StoreAway:
        raise
    except Unavailable:
        entries: dict[str, Found] = {}
        async for entry in _read_singly(read, names):
            entries |= entry
        return entries


async def _read_singly(
    read: Callable[[Sequence[str]], Awaitable[dict[str, Found]]], names: Sequence[str]
) -> AsyncIterator[dict[str, Found]]:
    for name in names:
        try:
            yield await read([name])
        except StoreAway:
            raise
        except Unavailable:  # this one is damaged; it is told as unreadable
            continue


def _own_vector(point: StoredPoint) -> Any:
    try:
        return unpacked(point.payload.get(OWN))
    except (binascii.Error, ValueError, TypeError):
        return None


def _agrees(point: StoredPoint, window: Mapping[int, str], own: Mapping[str, OwnFeatures]) -> bool:
    """Whether the point has the vectors that its own and its neighbours' features make."""
    blend = blend_neighbours(window, own)
    weights = bm25_weights(blend.counts)
    if (point.context is None) != (blend.vector is None) or point.words.keys() != weights.keys():
        return False
    is_near = point.context is None or _is_close(point.context, blend.vector)
    return is_near and _is_close(list(point.words.values()), [weights[index] for index in point.words])


def _is_same(stored: Any, expected: Any) -> bool:
    """Whether the values are the same; numbers but for the last bit, which qdrant-edge may read otherwise."""
    if isinstance(stored, float) and isinstance(expected, float):
        return math.isclose(stored, expected, rel_tol=1e-15)
    return bool(stored == expected)


def _is_close(stored: Any, expected: Any) -> bool:
    """Whether the numbers are the same but for the rounding of the last bits, which depends on the machine."""
    return len(stored) == len(expected) and np.allclose(stored, expected, rtol=3e-7, atol=1e-8)
