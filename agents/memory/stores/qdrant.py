"""Atlas on a server: Qdrant through its asynchronous client. It keeps the points of :mod:`.points`
and gives the same scores."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any

from qdrant_client import AsyncQdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from agents.memory.context import ContextFeatures, OwnFeatures, blend_neighbours, rounded, unit, unpacked
from agents.memory.episodes import store_key
from agents.memory.ranking import Match
from agents.memory.settings import MemorySettings
from agents.memory.stores.errors import Reach, StoreAway, away_error, one_line, setting_error
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
from schemas.episode import Episode
from schemas.errors import Unavailable

PAGE = 1000
"""Points that one request reads."""

PointId = models.ExtendedPointId
Query = list[float] | models.SparseVector

_INDEXED: dict[str, models.PayloadSchemaType | models.KeywordIndexParams] = {
    "owner": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True),
    "tenant": models.PayloadSchemaType.KEYWORD,
    "user": models.PayloadSchemaType.KEYWORD,
    "transcript": models.PayloadSchemaType.KEYWORD,
    "session_id": models.PayloadSchemaType.KEYWORD,
    "created_at": models.PayloadSchemaType.FLOAT,
}

_KEY_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_NOT_NOW = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
    HTTPStatus.INSUFFICIENT_STORAGE,
)
"""Answers of a server that takes no request of this kind at the moment, whatever is in it."""

_DISK_REFUSES = ("no space left", "disk space", "read-only")
"""What a server says that cannot write, with the status of any other fault of its own."""

_setting_error = partial(setting_error, mend='set agents.memory.atlas = "edge"')


class QdrantAtlas:
    """One collection; see :class:`agents.memory.stores.protocols.AtlasStore`."""

    name = "atlas"
    stuck = ""

    def __init__(self, client: AsyncQdrantClient, settings: MemorySettings) -> None:
        self._client = client
        self._settings = settings
        self._collection = settings.qdrant_collection
        self._words = WordEncoder(settings.language)
        self._reach = Reach(self.name)

    @property
    def away(self) -> str:
        """See :class:`agents.memory.stores.protocols.Store`."""
        return self._reach.away

    @classmethod
    def of(cls, settings: MemorySettings) -> "QdrantAtlas":
        """The collection on the server that the settings name.

        Raises:
            SetupError: its address cannot be used.
        """
        try:
            client = AsyncQdrantClient(
                url=settings.qdrant_url,
                api_key=settings.qdrant_key,
                timeout=max(1, round(settings.store_timeout)),
                check_compatibility=False,
            )
        except ValueError as error:
            raise _setting_error("qdrant_url", f"'{settings.qdrant_url}' is no address ({one_line(error)})") from error
        return cls(client, settings)

    async def load(self) -> bool:
        """Connect to the server; return whether the collection exists, with words as they are counted now.

        Indexes that whoever made it did not come to are made.

        Raises:
            SetupError: no server answers, it refuses the key, or the collection holds vectors of another size.
        """
        settings = self._settings
        try:
            if not await self._client.collection_exists(self._collection):
                return False
            collection = await self._client.get_collection(self._collection)
        except UnexpectedResponse as error:
            if error.status_code in (401, 403):
                raise _setting_error("qdrant_key", f"{settings.qdrant_url} refuses this key") from error
            raise _setting_error("qdrant_url", f"{settings.qdrant_url} answers {error.status_code}") from error
        except (ApiException, ResourceExhaustedResponse, OSError) as error:
            raise _setting_error(
                "qdrant_url", f"no Qdrant server answers at {settings.qdrant_url} ({one_line(error)})"
            ) from error
        params = collection.config.params
        context = params.vectors.get(CONTEXT) if isinstance(params.vectors, dict) else None
        if context is None or context.size != settings.vector_size:
            size = "no context vectors" if context is None else f"vectors of {context.size} floats"
            raise _setting_error(
                "qdrant_collection",
                f"'{self._collection}' holds {size}, the embedder gives {settings.vector_size}: set the embedder back "
                "or name another collection, which is made from the record",
            )
        words = (params.sparse_vectors or {}).get(WORDS)
        if words is None or words.modifier != models.Modifier.IDF:
            return False
        async with self._translate_errors():
            await self._index(_INDEXED.keys() - (collection.payload_schema or {}).keys())
        return True

    async def renew(self) -> None:
        """Begin with an empty collection."""
        size = self._settings.vector_size
        async with self._translate_errors():
            await self._client.delete_collection(self._collection)
            await self._client.create_collection(
                self._collection,
                vectors_config={CONTEXT: models.VectorParams(size=size, distance=models.Distance.DOT)},
                sparse_vectors_config={WORDS: models.SparseVectorParams(modifier=models.Modifier.IDF)},
            )
            await self._index(_INDEXED.keys())

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def place(self, episodes: Sequence[Episode], windows: Windows) -> None:
        """Store the episodes, and blend the vectors of the other points in ``windows`` again; applied on return."""
        new = {store_key(episode.tenant, "episode", episode.episode_id): episode for episode in episodes}
        own = {name: self._own_features(episode) for name, episode in new.items()}
        async with self._translate_errors():
            own |= await self._read_own_features(
                {name for window in windows.values() for name in window.values()} - set(new)
            )
            points = [
                models.PointStruct(
                    id=name,
                    vector=_vectors(blend_neighbours(windows.get(name, {0: name}), own)),
                    payload=payload(episode, own[name]),
                )
                for name, episode in new.items()
            ]
            await self._client.upsert(self._collection, points, wait=True)
            await self._renew_vectors({name: windows[name] for name in windows.keys() & (own.keys() - new.keys())}, own)

    async def search(self, lookup: Lookup) -> list[Match]:
        """The owner's episodes that the vector or the words find, each with both scores; in no order."""
        queries = self._queries(lookup)
        if not queries:
            return []
        texts: dict[PointId, dict[str, Any]] = {}
        scores: dict[str, dict[PointId, float]] = {}
        async with self._translate_errors():
            first = await self._batch([_request(queries[name], name, _where(lookup), lookup) for name in queries])
            for name, points in zip(queries, first, strict=True):
                scores[name] = {point.id: point.score for point in points}
                texts.update((point.id, point.payload or {}) for point in points)
            await self._complete_scores(queries, scores, texts.keys(), lookup)
        cosines, lexical = scores.get(CONTEXT, {}), scores.get(WORDS, {})
        return [
            Match(key=str(id), similarity=cosines.get(id, 0.0), lexical=lexical.get(id, 0.0), **text)
            for id, text in texts.items()
        ]

    async def read(self, names: Sequence[str]) -> dict[str, Match]:
        """The episodes of these points, by key, without scores; keys without a point are left out."""
        async with self._translate_errors():
            records = await self._client.retrieve(self._collection, list(names), with_payload=PAYLOAD_FIELDS)
        return {
            str(record.id): Match(key=str(record.id), similarity=0.0, **(record.payload or {})) for record in records
        }

    async def contents(self, names: Sequence[str]) -> dict[str, StoredPoint]:
        """All that is kept of these points, by key; keys without a point are left out."""
        async with self._translate_errors():
            records = await self._client.retrieve(self._collection, list(names), with_payload=True, with_vectors=True)
        return {str(record.id): point_of(record.payload, record.vector) for record in records}

    async def mark_summarised(self, names: Sequence[str], summary: str) -> None:
        """Mark these points as summed up in the episode ``summary``; keys without a point are ignored."""
        if not names:
            return
        where = models.Filter(must=[models.HasIdCondition(has_id=list(names))])
        async with self._translate_errors():
            await self._client.set_payload(self._collection, {SUMMARY: summary}, points=where, wait=True)

    async def remove(self, names: Sequence[str], windows: Windows) -> None:
        """Delete the points, and blend the vectors of those in ``windows`` again."""
        async with self._translate_errors():
            if names:
                await self._client.delete(self._collection, models.PointIdsList(points=list(names)), wait=True)
            own = await self._read_own_features({name for window in windows.values() for name in window.values()})
            await self._renew_vectors({name: window for name, window in windows.items() if name in own}, own)

    async def find_transcript(self, transcript: str, *, tenant: str, user: str) -> list[tuple[str, str]]:
        """The user's episodes with which a conversation had this transcript: the ids of session and episode."""
        where = models.Filter(must=[_is("transcript", transcript), _is("tenant", tenant), _is("user", user)])
        async with self._translate_errors():
            records, _ = await self._client.scroll(
                self._collection, scroll_filter=where, limit=MANY, with_payload=["session_id", "episode_id"]
            )
        payloads = [record.payload or {} for record in records]
        return [(str(fields["session_id"]), str(fields["episode_id"])) for fields in payloads]

    async def keys(self, *, tenant: str | None = None, user: str | None = None) -> set[str]:
        """The keys of all points, of one tenant's, or of one of its users'."""
        conditions = [_is(field, value) for field, value in (("tenant", tenant), ("user", user)) if value is not None]
        where = models.Filter(must=[*conditions]) if conditions else None
        names: set[str] = set()
        offset = None
        async with self._translate_errors():
            while True:
                records, offset = await self._client.scroll(
                    self._collection, scroll_filter=where, limit=PAGE, offset=offset, with_payload=False
                )
                names.update(str(record.id) for record in records)
                if offset is None:
                    return names

    async def count(self) -> int:
        """Episodes stored."""
        async with self._translate_errors():
            return (await self._client.count(self._collection, exact=True)).count

    async def _index(self, fields: Set[str]) -> None:
        for field in sorted(fields):
            await self._client.create_payload_index(self._collection, field, field_schema=_INDEXED[field])

    def _own_features(self, episode: Episode) -> OwnFeatures:
        fits = len(episode.embedding) == self._settings.vector_size
        return OwnFeatures(
            rounded(unit(episode.embedding)) if fits else None,
            self._words.counts(f"{episode.question}\n{episode.answer}"),
        )

    async def _read_own_features(self, names: Iterable[str]) -> dict[str, OwnFeatures]:
        ids = sorted(names)
        if not ids:
            return {}
        features = {}
        for record in await self._client.retrieve(self._collection, ids, with_payload=["question", "answer", OWN]):
            text = record.payload or {}
            counts = self._words.counts(f"{text.get('question')}\n{text.get('answer')}")
            features[str(record.id)] = OwnFeatures(unpacked(text.get(OWN)), counts)
        return features

    async def _renew_vectors(self, windows: Windows, own: Mapping[str, OwnFeatures]) -> None:
        updates = [
            models.PointVectors(id=name, vector=_vectors(blend_neighbours(window, own)))
            for name, window in windows.items()
        ]
        if updates:
            await self._client.update_vectors(self._collection, updates, wait=True)

    def _queries(self, lookup: Lookup) -> dict[str, Query]:
        queries: dict[str, Query] = {}
        if lookup.vector:
            queries[CONTEXT] = list(lookup.vector)
        if query_words := self._words.query_words(lookup.text) if lookup.text else ():
            queries[WORDS] = models.SparseVector(indices=list(query_words), values=[1.0] * len(query_words))
        return queries

    async def _complete_scores(
        self, queries: Mapping[str, Query], scores: dict[str, dict[PointId, float]], names: Set[PointId], lookup: Lookup
    ) -> None:
        """Fill in the missing scores: a candidate that only the words brought gets its cosine, too."""
        missing = {name: names - present.keys() for name, present in scores.items()}
        incomplete = [name for name, ids in missing.items() if ids]
        if not incomplete:
            return
        batch = [
            _request(queries[name], name, _among(missing[name], owner=lookup.owner), lookup, among=True)
            for name in incomplete
        ]
        for name, points in zip(incomplete, await self._batch(batch), strict=True):
            scores[name].update((point.id, point.score) for point in points)

    async def _batch(self, requests: list[models.QueryRequest]) -> list[list[models.ScoredPoint]]:
        return [answer.points for answer in await self._client.query_batch_points(self._collection, requests)]

    @asynccontextmanager
    async def _translate_errors(self) -> AsyncIterator[None]:
        """Turn the client's errors into this program's own.

        Raises:
            StoreAway: the server does not answer, or refuses whatever is asked; the error names the setting.
            Unavailable: it answers with an error.
        """
        with self._reach.watch():
            try:
                yield
            except (ResponseHandlingException, ResourceExhaustedResponse) as error:
                raise away_error("qdrant_url", f"the atlas's server does not answer ({one_line(error)})") from error
            except UnexpectedResponse as error:
                raise _response_error(error) from error
            except (ApiException, ValueError, OSError) as error:  # the client refuses a malformed request: ValueError
                raise Unavailable(f"the atlas failed: {one_line(error)}") from error


def _request(
    query: Query, name: str, where: models.Filter, lookup: Lookup, *, among: bool = False
) -> models.QueryRequest:
    """A request for the best points that pass ``where``, with payload; with ``among``, for the scores of all of
    them."""
    corpus = models.IdfCorpusParams(corpus=models.Filter(must=[_is("owner", lookup.owner)]))
    return models.QueryRequest(
        query=query,
        using=name,
        filter=where,
        limit=2 * lookup.limit if among else lookup.limit,
        with_payload=False if among else PAYLOAD_FIELDS,
        params=models.SearchParams(idf=corpus) if name == WORDS else None,
    )


def _among(names: Set[PointId], *, owner: str) -> models.Filter:
    return models.Filter(must=[models.HasIdCondition(has_id=list(names)), _is("owner", owner)])


def _where(lookup: Lookup) -> models.Filter:
    where: list[models.Condition] = [_is("owner", lookup.owner)]
    if lookup.session_id is not None:
        where.append(_is("session_id", lookup.session_id))
    if lookup.as_of is not None:
        where.append(models.FieldCondition(key="created_at", range=models.Range(lte=lookup.as_of)))
    if lookup.within:
        ranges = [models.Range(gte=start, lt=end) for start, end in lookup.within]
        where.append(models.Filter(should=[models.FieldCondition(key="created_at", range=range) for range in ranges]))
    return models.Filter(must=where)


def _is(field: str, value: str) -> models.FieldCondition:
    return models.FieldCondition(key=field, match=models.MatchValue(value=value))


def _vectors(near: ContextFeatures) -> dict[str, Any]:
    weights = bm25_weights(near.counts)
    vectors: dict[str, Any] = {WORDS: models.SparseVector(indices=list(weights), values=list(weights.values()))}
    if near.vector is not None:
        vectors[CONTEXT] = near.vector.tolist()
    return vectors


def _response_error(error: UnexpectedResponse) -> StoreAway | Unavailable:
    text = f"{error.status_code} {error.reason_phrase}"
    if error.status_code in _KEY_REFUSED:
        return away_error("qdrant_key", f"the atlas's server refuses this key ({text})")
    if error.status_code in _NOT_NOW:
        return away_error("qdrant_url", f"the atlas's server takes no requests ({text})")
    if error.status_code == HTTPStatus.NOT_FOUND:
        return away_error(
            "qdrant_collection", f"the atlas's collection is gone ({text}; 'kiki memory rebuild' makes it)"
        )
    body = error.content.decode(errors="replace").lower()
    if error.status_code is not None and error.status_code >= 500 and any(sign in body for sign in _DISK_REFUSES):
        return away_error("qdrant_url", f"the atlas's server cannot write ({text})")
    return Unavailable(f"the atlas failed: {text}")
