"""Atlas: the episodes' vectors and words, in qdrant-edge.

Each point has two vectors: ``context`` (the episode's embedding with its neighbours' shares) and ``words`` (BM25
weights with theirs; the IDF is counted within the owner). Neighbours come from Trace; see
:mod:`agents.memory.context`. The episode's own embedding is in the payload, because it is never searched: it is read
for the few best matches, and to blend the vectors again when a neighbour is added.

A point's key (:func:`agents.memory.episodes.store_key`) is called its ``name`` here.

Without a write-ahead log, qdrant-edge 0.9 keeps what was written before a ``flush``: its documentation says so, and
tests with ``kill -9`` confirm it. :meth:`Atlas.place` therefore flushes once for each batch, and the
record's message is acknowledged after it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import qdrant_edge as qdrant

from agents.memory.context import ContextFeatures, OwnFeatures, blend_neighbours, rounded, unit, unpacked
from agents.memory.episodes import store_key
from agents.memory.ranking import Match
from agents.memory.stores import generations
from agents.memory.stores.errors import BrokenStore, translate_opening_errors, translate_store_errors
from agents.memory.stores.stored import (
    CONTEXT,
    MANY,
    OWN,
    PAYLOAD_FIELDS,
    SUMMARY,
    WORDS,
    Lookup,
    StoredPoint,
    Windows,
    payload,
    point_of,
)
from agents.memory.text.words import WordEncoder, bm25_weights
from agents.shared.disk import sync_tree
from schemas.episode import Episode
from schemas.errors import Unavailable

CONFIG = "edge_config.json"
"""File in which qdrant-edge keeps a shard's configuration."""

OPTIMISED, FORGOT = "optimised", "forgot"
"""Files added to a shard's own: the number of episodes when it was optimised; a mark that some were deleted since."""

_INDEXED: dict[str, qdrant.KeywordIndexParams | qdrant.FloatIndexParams] = {
    "owner": qdrant.KeywordIndexParams(is_tenant=True, memory=qdrant.Memory.Cached),
    "tenant": qdrant.KeywordIndexParams(enable_hnsw=False, memory=qdrant.Memory.Cached),
    "user": qdrant.KeywordIndexParams(enable_hnsw=False, memory=qdrant.Memory.Cached),
    "transcript": qdrant.KeywordIndexParams(enable_hnsw=False, memory=qdrant.Memory.Cached),
    "session_id": qdrant.KeywordIndexParams(enable_hnsw=False, memory=qdrant.Memory.Cached),
    "created_at": qdrant.FloatIndexParams(enable_hnsw=False, memory=qdrant.Memory.Cached),
}
SEARCH_THREADS = 1
"""qdrant-edge's default is eight, even on two cores; threads without work spin for a while, which delays the turn."""

_RESCORING = qdrant.QuantizationSearchParams(rescore=True, oversampling=3.0)

PointId = int | UUID | str


class Atlas:
    """One shard. Calls block, and must not overlap."""

    def __init__(self, shard: qdrant.EdgeShard, path: Path, *, size: int, words: WordEncoder) -> None:
        self._shard = shard
        self.path = path
        self.size = size
        self.words = words
        self._changed: set[str] | None = None
        self._holds_deleted = (path / FORGOT).exists()

    @classmethod
    def open(cls, directory: Path, *, size: int, words: WordEncoder | None = None) -> "Atlas":
        """Load the shard in force in ``directory``.

        Raises:
            BrokenStore: the files cannot be read, an earlier version made them, or the vectors are of another size.
        """
        with translate_opening_errors("atlas"):
            atlas = cls.load(generations.current_shard(directory), size=size, words=words or WordEncoder())
            generations.tidy(directory)
        return atlas

    @classmethod
    def create(cls, directory: Path, *, size: int, words: WordEncoder | None = None) -> "Atlas":
        """Make ``directory`` with an empty shard in it, which counts from the moment at which it is put in force.

        Raises:
            BrokenStore: that failed.
        """
        with translate_opening_errors("atlas"):
            directory.mkdir(parents=True, exist_ok=True)
            path = generations.first_shard(directory)
            shard = qdrant.EdgeShard.create(str(path), _config(size))
            for field, schema in _INDEXED.items():
                shard.update(qdrant.UpdateOperation.create_field_index(field, schema))
            shard.flush()
            generations.put_in_force(path)
        return cls(shard, path, size=size, words=words or WordEncoder())

    @classmethod
    def load(cls, path: Path, *, size: int, words: WordEncoder) -> "Atlas":
        """Load one shard.

        Raises:
            BrokenStore: the files cannot be read, an earlier version made them, or the vectors are of another size.
        """
        with translate_opening_errors("atlas"):
            _refuse_other_size(path, size)
            shard = qdrant.EdgeShard.load(str(path), _config(size))
            lacking = _INDEXED.keys() - shard.info().payload_schema.keys()
            if lacking:  # the library takes a shard whose segments are gone for an empty one
                shard.close()
                raise BrokenStore(f"the atlas in {path} is not whole: it has no index of {', '.join(sorted(lacking))}.")
            return cls(shard, path, size=size, words=words)

    def place(self, episodes: Sequence[Episode], windows: Windows) -> None:
        """Store the episodes, blend the vectors of the other points in ``windows`` again, and sync to disk.

        Raises:
            Unavailable: the store failed; the caller must not count anything as stored.
        """
        with translate_store_errors("atlas"):
            new = {store_key(episode.tenant, "episode", episode.episode_id): episode for episode in episodes}
            own = {name: self._own_features(episode) for name, episode in new.items()}
            neighbours = {name for window in windows.values() for name in window.values()} - set(new)
            own |= self._read_own_features(neighbours)
            points = [
                qdrant.Point(
                    name, _vectors(blend_neighbours(windows.get(name, {0: name}), own)), payload(episode, own[name])
                )
                for name, episode in new.items()
            ]
            updates = [
                qdrant.PointVectors(name, _vectors(blend_neighbours(windows[name], own)))
                for name in windows.keys() & (own.keys() - new.keys())
            ]
            self._note_changes({*new, *windows})
            self._shard.update(qdrant.UpdateOperation.upsert_points(points))
            if updates:
                self._shard.update(qdrant.UpdateOperation.update_vectors(updates))
            self._shard.flush()

    def search(self, lookup: Lookup) -> list[Match]:
        """The owner's episodes that the vector or the words find, each with both scores; in no order.

        Raises:
            Unavailable: the store failed, or the vector is not of its size.
        """
        query_words = self.words.query_words(lookup.text) if lookup.text else ()
        queries = _queries(lookup, query_words)
        if not queries:
            return []
        with translate_store_errors("atlas"):
            where = _where(lookup)
            texts: dict[PointId, dict[str, Any]] = {}
            scores: dict[str, dict[PointId, float]] = {}
            first = self._batch([_request(queries[name], name, where, lookup) for name in queries])
            for name, points in zip(queries, first, strict=True):
                pairs = [(point.id, point) for point in points]
                scores[name] = {id: point.score for id, point in pairs}
                texts.update((id, point.payload or {}) for id, point in pairs if id not in texts)
            self._complete_scores(queries, scores, texts.keys(), lookup)
        cosines, lexical = scores.get(CONTEXT, {}), scores.get(WORDS, {})
        return [
            Match(key=str(id), similarity=cosines.get(id, 0.0), lexical=lexical.get(id, 0.0), **text)
            for id, text in texts.items()
        ]

    def read(self, names: Sequence[str]) -> dict[str, Match]:
        """The episodes of these points, by key, without scores; keys without a point are left out.

        Raises:
            Unavailable: the store failed.
        """
        if not names:
            return {}
        with translate_store_errors("atlas"):
            records = self._shard.retrieve([*names], with_payload=PAYLOAD_FIELDS, with_vector=False)
            return {
                str(record.id): Match(key=str(record.id), similarity=0.0, **(record.payload or {}))
                for record in records
            }

    def contents(self, names: Sequence[str]) -> dict[str, StoredPoint]:
        """All that is kept of these points, by key; keys without a point are left out.

        Raises:
            Unavailable: the store failed.
        """
        with translate_store_errors("atlas"):
            records = self._shard.retrieve([*names], with_payload=True, with_vector=True)
            return {str(record.id): point_of(record.payload, record.vector) for record in records}

    def mark_summarised(self, names: Sequence[str], summary: str) -> None:
        """Mark these points as summed up in the episode ``summary``; keys without a point are ignored.

        Raises:
            Unavailable: the store failed.
        """
        if not names:
            return
        with translate_store_errors("atlas"):
            where = qdrant.Filter(must=[qdrant.HasIdCondition({*names})])
            self._note_changes(names)
            self._shard.update(qdrant.UpdateOperation.set_payload_by_filter(where, {SUMMARY: summary}))
            self._shard.flush()

    def remove(self, names: Sequence[str], windows: Windows) -> None:
        """Delete the points, and blend the vectors of those in ``windows`` again.

        Raises:
            Unavailable: the store failed.
        """
        with translate_store_errors("atlas"):
            self._note_changes({*names, *windows})
            if names:
                (self.path / FORGOT).touch()
                self._holds_deleted = True
                self._shard.update(qdrant.UpdateOperation.delete_points(list(names)))
            own = self._read_own_features({name for window in windows.values() for name in window.values()})
            updates = [
                qdrant.PointVectors(name, _vectors(blend_neighbours(window, own)))
                for name, window in windows.items()
                if name in own
            ]
            if updates:
                self._shard.update(qdrant.UpdateOperation.update_vectors(updates))
            self._shard.flush()

    @property
    def holds_deleted(self) -> bool:
        """Whether something was deleted whose bytes still lie in the shard's files."""
        return self._holds_deleted

    def count_unoptimised(self) -> int:
        """Number of episodes added since the shard was optimised.

        Raises:
            Unavailable: the store failed.
        """
        marker = self.path / OPTIMISED
        return max(0, self.count() - (int(marker.read_text()) if marker.exists() else 0))

    def start_tracking(self) -> Path:
        """Sync, and remember which points change from now on. Returns the shard's folder, to copy before the next
        change.

        Raises:
            Unavailable: the store failed.
        """
        with translate_store_errors("atlas"):
            self._shard.flush()
            self._changed = set()
            return self.path

    @property
    def is_tracking(self) -> bool:
        """Whether changed points are remembered."""
        return self._changed is not None

    def stop_tracking(self) -> None:
        """Stop remembering changed points."""
        self._changed = None

    def transfer_changes(self, copy: "Atlas", *, most: int) -> int:
        """Bring up to ``most`` points changed since :meth:`start_tracking` into the copy; return how many are left.

        Raises:
            Unavailable: a store failed, or changes were not tracked.
        """
        if self._changed is None:
            raise Unavailable("the atlas began anew (was emptied) while a copy of it was optimised.")
        with translate_store_errors("atlas"):
            names: list[PointId] = [self._changed.pop() for _ in range(min(most, len(self._changed)))]
            records = self._shard.retrieve(names, with_payload=True, with_vector=True) if names else []
            missing = set(names) - {str(record.id) for record in records}
            points = [
                qdrant.Point(stored_point.id, stored_point.vector or {}, stored_point.payload or {})
                for stored_point in records
            ]
            if points:
                copy._shard.update(qdrant.UpdateOperation.upsert_points(points))
            if missing:
                (copy.path / FORGOT).touch()
                copy._holds_deleted = True
                copy._shard.update(qdrant.UpdateOperation.delete_points([*missing]))
            return len(self._changed)

    def hand_over_to(self, copy: "Atlas") -> "Atlas":
        """Bring the remaining changes into the copy and put it in force; this shard is closed and must not be used
        again.

        Raises:
            Unavailable: a store failed; this shard stays in force.
        """
        while self.transfer_changes(copy, most=256):
            pass
        if copy.count() != self.count():
            raise Unavailable(f"the atlas's copy holds {copy.count()} episodes of {self.count()}: it is not used.")
        with translate_store_errors("atlas"):
            copy._shard.flush()
            generations.put_in_force(copy.path)
        with suppress(Unavailable):  # its files are about to be removed
            self.close()
        return copy

    def find_transcript(self, transcript: str, *, tenant: str, user: str) -> list[tuple[str, str]]:
        """The user's episodes with which a conversation had this transcript: the ids of session and episode.

        Raises:
            Unavailable: the store failed.
        """
        where = qdrant.Filter(must=[_is("transcript", transcript), _is("tenant", tenant), _is("user", user)])
        with translate_store_errors("atlas"):
            records, _ = self._shard.scroll(
                qdrant.ScrollRequest(limit=MANY, filter=where, with_payload=["session_id", "episode_id"])
            )
            payloads = [record.payload or {} for record in records]
        return [(str(fields["session_id"]), str(fields["episode_id"])) for fields in payloads]

    def keys(self, *, tenant: str | None = None, user: str | None = None) -> set[str]:
        """The keys of all points, of one tenant's, or of one of its users'.

        Raises:
            Unavailable: the store failed.
        """
        names: set[str] = set()
        offset = None
        conditions = [_is(field, value) for field, value in (("tenant", tenant), ("user", user)) if value is not None]
        where = qdrant.Filter(must=[*conditions]) if conditions else None
        with translate_store_errors("atlas"):
            while True:
                records, offset = self._shard.scroll(
                    qdrant.ScrollRequest(offset=offset, limit=1000, filter=where, with_payload=False)
                )
                names.update(str(record.id) for record in records)
                if offset is None:
                    return names

    def count(self) -> int:
        """Episodes stored.

        Raises:
            Unavailable: the store failed.
        """
        with translate_store_errors("atlas"):
            # Without a filter the estimate is exact; counting one by one takes 80 ms at 200,000 points.
            return int(self._shard.count(qdrant.CountRequest(exact=False)))

    def close(self) -> None:
        """Sync and release the files."""
        with translate_store_errors("atlas"):
            self._shard.flush()
            self._shard.close()

    def _note_changes(self, names: Iterable[str]) -> None:
        if self._changed is not None:
            self._changed.update(names)

    def _own_features(self, episode: Episode) -> OwnFeatures:
        vector = episode.embedding if len(episode.embedding) == self.size else None
        return OwnFeatures(
            None if vector is None else rounded(unit(vector)),
            self.words.counts(f"{episode.question}\n{episode.answer}"),
        )

    def _read_own_features(self, names: Iterable[str]) -> dict[str, OwnFeatures]:
        ids: list[PointId] = [*sorted(names)]
        if not ids:
            return {}
        records = self._shard.retrieve(ids, with_payload=["question", "answer", OWN], with_vector=False)
        features = {}
        for record in records:
            text = record.payload or {}
            counts = self.words.counts(f"{text.get('question')}\n{text.get('answer')}")
            features[str(record.id)] = OwnFeatures(unpacked(text.get(OWN)), counts)
        return features

    def _complete_scores(
        self, queries: Mapping[str, Any], scores: dict[str, dict[PointId, float]], names: Set[PointId], lookup: Lookup
    ) -> None:
        """Fill in the missing scores: a candidate that only the words brought gets its cosine, too."""
        missing = {name: names - points.keys() for name, points in scores.items()}
        incomplete = [name for name, ids in missing.items() if ids]
        if not incomplete:
            return
        batch = [
            _request(
                queries[name], name, qdrant.Filter(must=[qdrant.HasIdCondition({*missing[name]})]), lookup, among=True
            )
            for name in incomplete
        ]
        for name, points in zip(incomplete, self._batch(batch), strict=True):
            scores[name].update((point.id, point.score) for point in points)

    def _batch(self, requests: list[qdrant.QueryRequest]) -> list[list[qdrant.ScoredPoint]]:
        return list(self._shard.query_batch(qdrant.QueryBatchRequest(requests)))


def optimise(path: Path) -> None:
    """Build the search graphs of a shard that no process has open, and rewrite it without deleted points.

    No other Python thread of the process runs meanwhile: qdrant-edge holds the GIL.

    Raises:
        BrokenStore: the files cannot be read.
        Unavailable: it failed; the shard may not be used.
    """
    with translate_opening_errors("atlas"):
        shard = qdrant.EdgeShard.load(str(path))
    with translate_store_errors("atlas"):
        (path / FORGOT).unlink(missing_ok=True)
        shard.optimize()
        shard.flush()
        (path / OPTIMISED).write_text(str(shard.count(qdrant.CountRequest(exact=True))))
        shard.close()
        sync_tree(path)  # the shard that it replaces is removed as soon as this one is in force


def _vectors(near: ContextFeatures) -> dict[str, Any]:
    weights = bm25_weights(near.counts)
    vectors: dict[str, Any] = {WORDS: qdrant.SparseVector(list(weights), list(weights.values()))}
    if near.vector is not None:
        vectors[CONTEXT] = near.vector.tolist()
    return vectors


def _config(size: int) -> qdrant.EdgeConfig:
    """Vectors are scanned as one-bit codes and the best are scored again; a large tenant gets a graph of its own.

    The full vectors stay on disk: a few are read for each query, and none when the shard is loaded.

    There is no write-ahead log, because the record serves as one: what was not flushed is projected again. A log would
    be replayed at every start.
    """
    codes = qdrant.TurboQuantQuantizationConfig(bits=qdrant.TurboQuantBitSize.Bits1, memory=qdrant.Memory.Cached)
    context = qdrant.EdgeVectorParams(size, qdrant.Distance.Dot, quantization_config=codes, memory=qdrant.Memory.Cold)
    return qdrant.EdgeConfig(
        vectors={CONTEXT: context},
        sparse_vectors={
            WORDS: qdrant.EdgeSparseVectorParams(modifier=qdrant.Modifier.Idf, memory=qdrant.Memory.Cached)
        },
        hnsw_config=qdrant.HnswIndexConfig(
            m=0, payload_m=16, ef_construct=100, full_scan_threshold=10000, max_indexing_threads=1
        ),
        optimizers=qdrant.EdgeOptimizersConfig(
            deleted_threshold=1e-9, vacuum_min_vector_number=1, default_segment_number=1
        ),
        max_search_threads=SEARCH_THREADS,
        id_tracker_memory=qdrant.Memory.Cached,
        wal_enabled=False,
    )


def _refuse_other_size(directory: Path, size: int) -> None:
    try:
        config = json.loads((directory / CONFIG).read_text())
        vectors = config["vectors"]
        stored_size = vectors[CONTEXT]["size"]
        names = {*vectors, *config["sparse_vectors"]}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BrokenStore(f"the atlas cannot be opened: its {CONFIG} cannot be read ({error}).") from error
    if names != {CONTEXT, WORDS}:
        raise BrokenStore(f"the atlas in {directory} was made by an earlier version.")
    if stored_size != size:
        raise BrokenStore(
            f"the atlas in {directory} holds vectors of {stored_size} floats, the embedder gives {size}: it is made "
            "again from the record.",
            param="vector_size",
        )


def _queries(lookup: Lookup, query_words: Sequence[int]) -> dict[str, Any]:
    queries: dict[str, Any] = {}
    if lookup.vector:
        queries[CONTEXT] = list(lookup.vector)
    if query_words:
        queries[WORDS] = qdrant.SparseVector(list(query_words), [1.0] * len(query_words))
    return queries


def _request(
    query: Any, name: str, where: qdrant.Filter, lookup: Lookup, *, among: bool = False
) -> qdrant.QueryRequest:
    """A request for the best points that pass ``where``, with payload; with ``among``, for the scores of all of
    them."""
    corpus = qdrant.IdfParams(corpus=qdrant.Filter(must=[_is("owner", lookup.owner)])) if name == WORDS else None
    return qdrant.QueryRequest(
        query=qdrant.Query.Nearest(query, using=name),
        filter=where,
        limit=2 * lookup.limit if among else lookup.limit,
        with_payload=False if among else PAYLOAD_FIELDS,
        params=qdrant.SearchParams(idf=corpus, quantization=_RESCORING),
    )


def _where(lookup: Lookup) -> qdrant.Filter:
    where: list[qdrant.ConditionType] = [_is("owner", lookup.owner)]
    if lookup.session_id is not None:
        where.append(_is("session_id", lookup.session_id))
    if lookup.as_of is not None:
        where.append(qdrant.FieldCondition(key="created_at", range=qdrant.RangeFloat(lte=lookup.as_of)))
    if lookup.within:
        ranges = [qdrant.RangeFloat(gte=start, lt=end) for start, end in lookup.within]
        where.append(qdrant.Filter(should=[qdrant.FieldCondition(key="created_at", range=range) for range in ranges]))
    return qdrant.Filter(must=where)


def _is(field: str, value: str) -> qdrant.FieldCondition:
    return qdrant.FieldCondition(key=field, match=qdrant.MatchValue(value))
