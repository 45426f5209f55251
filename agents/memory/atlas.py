"""Atlas: the episodes' vectors, in qdrant-edge.

What qdrant-edge 0.9 guarantees, as read from its system calls and tried with ``kill -9``: an upsert lies in the
write-ahead log when it returns and survives the death of the process; only ``flush`` syncs it to disk, so only
then it survives the death of the machine. :meth:`Atlas.upsert` therefore flushes once for each batch, and the
record's message is acknowledged after it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import qdrant_edge as qdrant

from agents.memory.faults import BrokenStore, opening, using
from agents.memory.recall import Match
from agents.memory.record import key
from schemas.episode import Episode
from schemas.errors import SetupError

CONFIG = "edge_config.json"
"""Where qdrant-edge keeps a shard's configuration."""

_INDEXED: dict[str, qdrant.PayloadSchemaType | qdrant.KeywordIndexParams] = {
    "tenant": qdrant.KeywordIndexParams(is_tenant=True),
    "session_id": qdrant.PayloadSchemaType.Keyword,
}
_READ = ["episode_id", "turn_id", "session_id", "question", "answer", "created_at"]


class Atlas:
    """One shard of unit vectors compared by cosine. Calls block; one at a time."""

    def __init__(self, shard: qdrant.EdgeShard, *, size: int) -> None:
        self._shard = shard
        self.size = size

    @classmethod
    def open(cls, directory: Path, *, size: int) -> "Atlas":
        """Load the shard in ``directory``, or create it where there is nothing.

        Raises:
            BrokenStore: the files cannot be read.
            SetupError: the shard holds vectors of another size.
        """
        directory.mkdir(parents=True, exist_ok=True)
        config = qdrant.EdgeConfig(vectors=qdrant.EdgeVectorParams(size, qdrant.Distance.Cosine))
        with opening("atlas"):
            if any(directory.iterdir()):
                _refuse_other_size(directory, size)
                shard = qdrant.EdgeShard.load(str(directory))
            else:
                shard = qdrant.EdgeShard.create(str(directory), config)
            present = shard.info().payload_schema
            for field, schema in _INDEXED.items():
                if field not in present:
                    shard.update(qdrant.UpdateOperation.create_field_index(field, schema))
        return cls(shard, size=size)

    def upsert(self, episodes: Sequence[Episode]) -> None:
        """Store the episodes, each under its own key, and sync them to disk.

        Raises:
            Unavailable: the store failed; nothing may be taken as stored.
        """
        with using("atlas"):
            self._shard.update(qdrant.UpdateOperation.upsert_points([_point(episode) for episode in episodes]))
            self._shard.flush()

    def search(
        self,
        vector: Sequence[float],
        *,
        tenant: str,
        limit: int,
        session_id: str | None = None,
        floor: float | None = None,
    ) -> list[Match]:
        """The nearest episodes of the tenant (and session), most similar first; none below ``floor``.

        Raises:
            Unavailable: the store failed, or the vector is not of its size.
        """
        where: list[qdrant.ConditionType] = [_is("tenant", tenant)]
        if session_id is not None:
            where.append(_is("session_id", session_id))
        request = qdrant.QueryRequest(
            query=qdrant.Query.Nearest(list(vector)),
            filter=qdrant.Filter(must=where),
            limit=limit,
            score_threshold=floor,
            with_payload=_READ,
        )
        with using("atlas"):
            return [_match(point) for point in self._shard.query(request)]

    def count(self) -> int:
        """Episodes stored.

        Raises:
            Unavailable: the store failed.
        """
        with using("atlas"):
            return int(self._shard.count(qdrant.CountRequest(exact=True)))

    def close(self) -> None:
        """Sync and release the files."""
        with using("atlas"):
            self._shard.flush()
            self._shard.close()


def _refuse_other_size(directory: Path, size: int) -> None:
    try:
        found = json.loads((directory / CONFIG).read_text())["vectors"][""]["size"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BrokenStore(f"the atlas cannot be opened: its {CONFIG} cannot be read ({error}).") from error
    if found != size:
        raise SetupError(
            f"the atlas in {directory} holds vectors of {found} floats, the embedder gives {size}: "
            "set the embedder back, or move that directory away to have it made again from the record.",
            param="vector_size",
        )


def _point(episode: Episode) -> qdrant.Point:
    return qdrant.Point(
        key(episode.tenant, "episode", episode.episode_id),
        list(episode.embedding),
        {
            "tenant": episode.tenant,
            "session_id": episode.session_id,
            "episode_id": episode.episode_id,
            "turn_id": episode.turn_id,
            "question": episode.question,
            "answer": episode.answer,
            "created_at": episode.created_at,
        },
    )


def _match(point: qdrant.ScoredPoint) -> Match:
    payload = point.payload or {}
    return Match(similarity=point.score, **{field: payload[field] for field in _READ})


def _is(field: str, value: str) -> qdrant.FieldCondition:
    return qdrant.FieldCondition(key=field, match=qdrant.MatchValue(value))
