"""A point of Atlas as both of its stores keep it: the names of its vectors and fields, its payload, and a query."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from agents.memory.context import OwnFeatures, packed
from agents.memory.episodes import owner_of
from agents.memory.ranking import Match
from agents.memory.text.dates import Span
from schemas.chat import digest_transcript, with_answer
from schemas.episode import Episode

CONTEXT, WORDS = "context", "words-2"
"""The vectors' names. Another name for the words when they are counted in another way has them all made again."""

OWN = "vector"
"""The payload field of an episode's own embedding."""

SUMMARY = "summary"
"""The payload field of the episode that sums a point up; empty for most."""

EPISODE_FIELDS = ("episode_id", "turn_id", "session_id", "speaker", "source_id", "question", "answer", "created_at")
"""Payload fields that are fields of the episode."""

PAYLOAD_FIELDS = [*EPISODE_FIELDS, OWN, SUMMARY]
"""Payload fields that are read of a point."""

MANY = 1000
"""Sessions with one transcript that are looked at; two are too many already."""

Windows = Mapping[str, Mapping[int, str]]
"""For each point (by key): its neighbours' keys by distance, its own at 0."""


class Lookup(Struct, frozen=True, kw_only=True):
    """A query: a vector, words, or both; never outside ``owner``.

    Attributes:
        owner: the key of whose episodes they are (:func:`agents.memory.episodes.owner_key`).
        vector: the query's embedding; empty searches the words only.
        text: the query's text; empty searches the vector only.
        limit: episodes that each of the two searches may return.
        session_id: only this session.
        as_of: Unix time; only episodes whose ``created_at`` is not later.
        within: spans of Unix time; only episodes whose ``created_at`` is in one of them. Empty asks for all.
    """

    owner: str
    vector: tuple[float, ...] = ()
    text: str = ""
    limit: int = 64
    session_id: str | None = None
    as_of: float | None = None
    within: tuple[Span, ...] = ()


class StoredPoint(Struct, frozen=True, eq=False):
    """A point as a store keeps it: its payload, its blended vector (None without one) and the weights of its words."""

    payload: dict[str, Any]
    context: Sequence[float] | None
    words: dict[int, float]


def point_of(fields: Mapping[str, Any] | None, vectors: Any) -> StoredPoint:
    """A point as either client gives it."""
    by_name = vectors if isinstance(vectors, dict) else {}
    words = by_name.get(WORDS)
    weights = {} if words is None else dict(zip(words.indices, words.values, strict=True))
    return StoredPoint(dict(fields or {}), by_name.get(CONTEXT), weights)


def unscored_match(episode: Episode) -> Match:
    """The episode as a search would find it, without scores and vector."""
    return Match(similarity=0.0, **_episode_fields(episode))


def payload(episode: Episode, own: OwnFeatures) -> dict[str, Any]:
    """A point's payload: what is kept beside the vectors."""
    return {
        "owner": owner_of(episode),
        "tenant": episode.tenant,
        "user": episode.user,
        "transcript": digest_transcript(with_answer(episode.messages, episode.answer)) if episode.messages else "",
        **_episode_fields(episode),
        OWN: packed(own.vector),
    }


def _episode_fields(episode: Episode) -> dict[str, Any]:
    return {field: getattr(episode, field) for field in EPISODE_FIELDS}
