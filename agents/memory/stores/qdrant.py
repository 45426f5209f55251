"""Atlas on a server: Qdrant through its asynchronous client. The same points and scores as :mod:`.points`."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from typing import Any

from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from agents.memory.context import Around, Own, around, rounded, unit, unpacked
from agents.memory.episodes import key
from agents.memory.ranking import Match
from agents.memory.settings import MemorySettings
from agents.memory.stores.errors import StoreAway, one_line
from agents.memory.stores.points import CONTEXT, OWN, SUMMARY, TOLD, WORDS, Ask, Windows, payload
from agents.memory.words import Words, weighed
from schemas.episode import Episode
from schemas.errors import SetupError, Unavailable

PAGE = 1000
"""Points that one request reads."""

PointId = models.ExtendedPointId
Query = list[float] | models.SparseVector

_INDEXED: dict[str, models.PayloadSchemaType | models.KeywordIndexParams] = {
    "tenant": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True),
    "session_id": models.PayloadSchemaType.KEYWORD,
    "created_at": models.PayloadSchemaType.FLOAT,
}


class QdrantAtlas:
    """One collection; see :class:`agents.memory.protocols.AtlasStore`."""

    name = "atlas"

    def __init__(self, client: AsyncQdrantClient, settings: MemorySettings) -> None:
        self._client = client
        self._settings = settings
        self._collection = settings.qdrant_collection
        self._words = Words(settings.language)

    @classmethod
    def of(cls, settings: MemorySettings) -> "QdrantAtlas":
        """On the server that the settings name.

        Raises:
            SetupError: its address is none.
        """
        try:
            client = AsyncQdrantClient(
                url=settings.qdrant_url,
                api_key=settings.qdrant_key,
                timeout=max(1, round(settings.store_timeout)),
                check_compatibility=False,
            )
        except ValueError as error:
            raise _refused("qdrant_url", f"'{settings.qdrant_url}' is no address ({one_line(error)})") from error
        return cls(client, settings)

    async def load(self) -> bool:
        """Reach the server; whether the collection is there.

        Raises:
            SetupError: no server answers, it refuses us, or the collection holds vectors of another size.
        """
        settings = self._settings
        try:
            if not await self._client.collection_exists(self._collection):
                return False
            found = (await self._client.get_collection(self._collection)).config.params.vectors
        except UnexpectedResponse as error:
            if error.status_code in (401, 403):
                raise _refused("qdrant_key", f"{settings.qdrant_url} refuses this key") from error
            raise _refused("qdrant_url", f"{settings.qdrant_url} answers {error.status_code}") from error
        except (ApiException, OSError) as error:
            raise _refused(
                "qdrant_url", f"no Qdrant server answers at {settings.qdrant_url} ({one_line(error)})"
            ) from error
        context = found.get(CONTEXT) if isinstance(found, dict) else None
        if context is None or context.size != settings.vector_size:
            size = "no context vectors" if context is None else f"vectors of {context.size} floats"
            raise _refused(
                "qdrant_collection",
                f"'{self._collection}' holds {size}, the embedder gives {settings.vector_size}: set the embedder back "
                "or name another collection, which is made from the record",
            )
        return True

    async def renew(self) -> None:
        """Begin with an empty collection."""
        size = self._settings.vector_size
        async with _translated():
            await self._client.delete_collection(self._collection)
            await self._client.create_collection(
                self._collection,
                vectors_config={CONTEXT: models.VectorParams(size=size, distance=models.Distance.DOT)},
                sparse_vectors_config={WORDS: models.SparseVectorParams(modifier=models.Modifier.IDF)},
            )
            for field, schema in _INDEXED.items():
                await self._client.create_payload_index(self._collection, field, field_schema=schema)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def place(self, episodes: Sequence[Episode], windows: Windows) -> None:
        """Store the episodes and renew those that ``windows`` names beside them; applied when it returns."""
        new = {key(one.tenant, "episode", one.episode_id): one for one in episodes}
        own = {name: self._own(one) for name, one in new.items()}
        async with _translated():
            own |= await self._stored({name for window in windows.values() for name in window.values()} - set(new))
            points = [
                models.PointStruct(
                    id=name,
                    vector=_vectors(around(windows.get(name, {0: name}), own)),
                    payload=payload(one, own[name]),
                )
                for name, one in new.items()
            ]
            await self._client.upsert(self._collection, points, wait=True)
            await self._renew_vectors({name: windows[name] for name in windows.keys() & (own.keys() - new.keys())}, own)

    async def search(self, ask: Ask) -> list[Match]:
        """The tenant's episodes that the vector or the words bring, each with all its scores; in no order."""
        queries = self._queries(ask)
        if not queries:
            return []
        texts: dict[PointId, dict[str, Any]] = {}
        scores: dict[str, dict[PointId, float]] = {}
        async with _translated():
            first = await self._batch([_request(queries[name], name, _where(ask), ask) for name in queries])
            for name, points in zip(queries, first, strict=True):
                scores[name] = {point.id: point.score for point in points}
                texts.update((point.id, point.payload or {}) for point in points)
            await self._complete(queries, scores, texts.keys(), ask)
        alike, lexical = scores.get(CONTEXT, {}), scores.get(WORDS, {})
        return [
            Match(similarity=alike.get(id, 0.0), lexical=lexical.get(id, 0.0), **text) for id, text in texts.items()
        ]

    async def read(self, names: Sequence[str]) -> dict[str, Match]:
        """What the points tell, by key, without scores; what is not there is left out."""
        async with _translated():
            records = await self._client.retrieve(self._collection, list(names), with_payload=TOLD)
        return {str(record.id): Match(similarity=0.0, **(record.payload or {})) for record in records}

    async def mark(self, names: Sequence[str], summary: str) -> None:
        """Say that the episode ``summary`` stands for these points; of what is not there nothing is kept."""
        if not names:
            return
        where = models.Filter(must=[models.HasIdCondition(has_id=list(names))])
        async with _translated():
            await self._client.set_payload(self._collection, {SUMMARY: summary}, points=where, wait=True)

    async def remove(self, names: Sequence[str], windows: Windows) -> None:
        """Delete the points and renew those that ``windows`` names."""
        async with _translated():
            if names:
                await self._client.delete(self._collection, models.PointIdsList(points=list(names)), wait=True)
            own = await self._stored({name for window in windows.values() for name in window.values()})
            await self._renew_vectors({name: window for name, window in windows.items() if name in own}, own)

    async def keys(self, *, tenant: str | None = None) -> set[str]:
        """The keys of all points, or of one tenant's."""
        where = None if tenant is None else models.Filter(must=[_is("tenant", tenant)])
        names: set[str] = set()
        offset = None
        async with _translated():
            while True:
                records, offset = await self._client.scroll(
                    self._collection, scroll_filter=where, limit=PAGE, offset=offset, with_payload=False
                )
                names.update(str(record.id) for record in records)
                if offset is None:
                    return names

    async def count(self) -> int:
        """Episodes stored."""
        async with _translated():
            return (await self._client.count(self._collection, exact=True)).count

    def _own(self, episode: Episode) -> Own:
        fits = len(episode.embedding) == self._settings.vector_size
        return Own(
            rounded(unit(episode.embedding)) if fits else None,
            self._words.counts(f"{episode.question}\n{episode.answer}"),
        )

    async def _stored(self, names: Iterable[str]) -> dict[str, Own]:
        wanted = sorted(names)
        if not wanted:
            return {}
        found = {}
        for record in await self._client.retrieve(self._collection, wanted, with_payload=["question", "answer", OWN]):
            text = record.payload or {}
            counts = self._words.counts(f"{text.get('question')}\n{text.get('answer')}")
            found[str(record.id)] = Own(unpacked(text.get(OWN)), counts)
        return found

    async def _renew_vectors(self, windows: Windows, own: Mapping[str, Own]) -> None:
        renewed = [
            models.PointVectors(id=name, vector=_vectors(around(window, own))) for name, window in windows.items()
        ]
        if renewed:
            await self._client.update_vectors(self._collection, renewed, wait=True)

    def _queries(self, ask: Ask) -> dict[str, Query]:
        queries: dict[str, Query] = {}
        if ask.vector:
            queries[CONTEXT] = list(ask.vector)
        if asked := self._words.asked(ask.text) if ask.text else ():
            queries[WORDS] = models.SparseVector(indices=list(asked), values=[1.0] * len(asked))
        return queries

    async def _complete(
        self, queries: Mapping[str, Query], scores: dict[str, dict[PointId, float]], names: Set[PointId], ask: Ask
    ) -> None:
        """Every score of every candidate: one that the words brought has a cosine, too."""
        missing = {name: names - found.keys() for name, found in scores.items()}
        wanted = [name for name, ids in missing.items() if ids]
        if not wanted:
            return
        batch = [
            _request(queries[name], name, _among(missing[name], tenant=ask.tenant), ask, among=True) for name in wanted
        ]
        for name, points in zip(wanted, await self._batch(batch), strict=True):
            scores[name].update((point.id, point.score) for point in points)

    async def _batch(self, requests: list[models.QueryRequest]) -> list[list[models.ScoredPoint]]:
        return [answer.points for answer in await self._client.query_batch_points(self._collection, requests)]


def _request(query: Query, name: str, where: models.Filter, ask: Ask, *, among: bool = False) -> models.QueryRequest:
    """The best of ``where`` with their texts; with ``among``, all of it with the scores alone."""
    corpus = models.IdfCorpusParams(corpus=models.Filter(must=[_is("tenant", ask.tenant)]))
    return models.QueryRequest(
        query=query,
        using=name,
        filter=where,
        limit=2 * ask.limit if among else ask.limit,
        with_payload=False if among else TOLD,
        params=models.SearchParams(idf=corpus) if name == WORDS else None,
    )


def _among(names: Set[PointId], *, tenant: str) -> models.Filter:
    return models.Filter(must=[models.HasIdCondition(has_id=list(names)), _is("tenant", tenant)])


def _where(ask: Ask) -> models.Filter:
    where: list[models.Condition] = [_is("tenant", ask.tenant)]
    if ask.session_id is not None:
        where.append(_is("session_id", ask.session_id))
    if ask.as_of is not None:
        where.append(models.FieldCondition(key="created_at", range=models.Range(lte=ask.as_of)))
    return models.Filter(must=where)


def _is(field: str, value: str) -> models.FieldCondition:
    return models.FieldCondition(key=field, match=models.MatchValue(value=value))


def _vectors(near: Around) -> dict[str, Any]:
    weights = weighed(near.counts)
    vectors: dict[str, Any] = {WORDS: models.SparseVector(indices=list(weights), values=list(weights.values()))}
    if near.vector is not None:
        vectors[CONTEXT] = near.vector.tolist()
    return vectors


def _refused(field: str, why: str) -> SetupError:
    name = f"agents.memory.{field}"
    mend = 'mend it, start the server, or set agents.memory.atlas = "edge"'
    return SetupError(f"setting '{name}': {why}: {mend}.", param=name)


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """The client's errors in our terms.

    Raises:
        StoreAway: the server does not answer, or not now.
        Unavailable: it answers with an error.
    """
    try:
        yield
    except ResponseHandlingException as error:
        raise StoreAway(f"the atlas's server does not answer: {one_line(error)}") from error
    except UnexpectedResponse as error:
        kind = StoreAway if error.status_code in (502, 503, 504) else Unavailable
        raise kind(f"the atlas failed: {error.status_code} {error.reason_phrase}") from error
    except (ApiException, ValueError, OSError) as error:  # the client refuses a malformed request with ValueError
        raise Unavailable(f"the atlas failed: {one_line(error)}") from error
