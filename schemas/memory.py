"""Requests to the memory: search, sessions, forgetting, and the maintenance of its stores."""

from typing import Annotated, Literal

from msgspec import Meta

from schemas.base import END, Integer, WireStruct, refuse_non_finite
from schemas.envelope import SESSION_PATTERN, TENANT_PATTERN, TURN_ID_PATTERN, User
from schemas.findings import RecalledEpisode
from schemas.numbers import Component, UnixTime


class SearchRequest(WireStruct, frozen=True, kw_only=True):
    """Find a user's episodes nearest to a query, which is ``text`` and its embedding ``vector``.

    ``session_id`` limits the search to one session, and must be given when no user is named; ``as_of`` (Unix time)
    limits it to what was known at that time.
    """

    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)]
    user: User = ""
    vector: Annotated[tuple[Component, ...], Meta(min_length=1, max_length=8192)]
    text: str = ""
    as_of: UnixTime | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 10
    session_id: Annotated[str, Meta(pattern=SESSION_PATTERN)] | None = None

    def __post_init__(self) -> None:
        refuse_non_finite(as_of=self.as_of)


class SearchReply(WireStruct, frozen=True, kw_only=True):
    """Hits in descending order of score. Unlike in a turn, no minimal relevance and no token budget is applied."""

    hits: tuple[RecalledEpisode, ...]


class RebuildRequest(WireStruct, frozen=True, kw_only=True):
    """Rebuild the memory's stores from the record: a tenant's part, one user's of it, or without ``tenant`` all."""

    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)] | None = None
    user: User | None = None


class RebuildReply(WireStruct, frozen=True, kw_only=True):
    """How many episodes are in the stores now, and how many seconds the rebuild took."""

    episodes: Integer
    seconds: float


class VerifyRequest(WireStruct, frozen=True, kw_only=True):
    """Compare the memory's stores with the record: a tenant's part, one user's of it, or without ``tenant`` all."""

    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)] | None = None
    user: User | None = None


class EpisodeDifference(WireStruct, frozen=True, kw_only=True):
    """What a store (``atlas`` or ``trace``) holds of a recorded episode otherwise than the record: fields of the
    episode, ``vectors`` (what Atlas searches), ``next`` (the episode after it), or all where it is ``unreadable``."""

    store: Literal["atlas", "trace"]
    episode_id: str
    fields: tuple[str, ...]


class VerifyReply(WireStruct, frozen=True, kw_only=True):
    """How the stores differ from the record.

    ``waiting`` counts episodes that are recorded and not yet projected, so they may be missing. ``missing_in_atlas``
    and ``missing_in_trace`` are ids of recorded episodes that a store lacks; ``unknown_in_atlas`` and
    ``unknown_in_trace`` count episodes that a store has and the record does not. ``unreadable`` holds the sequences of
    entries of the record that nobody can read, whose ever they are: no store has them.

    Attributes:
        different: number of episodes that a store holds otherwise than the record, counted in each store.
        differences: the first of them.
        unrecorded: ids of episodes that a store holds and of which the record has neither entry nor tombstone; the
            record lost them, or was trimmed.
        lost: ranges of sequences, from ``first_seq`` on, that are missing or cannot be read, and that no tombstone
            explains; whose ever they were.
        first_seq: the sequence at which the record begins. What was before it was trimmed, or its file is gone.
    """

    recorded: Integer
    waiting: Integer
    missing_in_atlas: tuple[str, ...]
    missing_in_trace: tuple[str, ...]
    unknown_in_atlas: Integer
    unknown_in_trace: Integer
    unreadable: tuple[Integer, ...] = ()
    different: Integer = 0
    differences: tuple[EpisodeDifference, ...] = ()
    unrecorded: tuple[str, ...] = ()
    lost: tuple[tuple[Integer, Integer], ...] = ()
    first_seq: Integer = 0

    @property
    def agrees(self) -> bool:
        """Whether the stores hold what the record holds, and all of the record is there and can be read."""
        return not (self.differs or self.unreadable or self.lost)

    @property
    def differs(self) -> bool:
        """Whether anything is missing in a store, otherwise than in the record or unknown to it."""
        missing = self.missing_in_atlas or self.missing_in_trace
        return bool(missing or self.unknown_in_atlas or self.unknown_in_trace or self.different)


class StatsRequest(WireStruct, frozen=True, kw_only=True):
    """Count what a tenant, or one of its users, has in the memory's stores."""

    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)]
    user: User | None = None


class StatsReply(WireStruct, frozen=True, kw_only=True):
    """Episodes in each store, and edges between episodes by kind."""

    atlas_episodes: Integer
    trace_episodes: Integer
    edges: dict[str, Integer]


class SleepRequest(WireStruct, frozen=True, kw_only=True):
    """Sum up related old episodes of a tenant, of one of its users, or of all users.

    They were recorded until ``before`` (Unix time). No summary holds episodes of two users; conversations in which
    nobody was named are not summed up.

    Without ``before``, the latest midnight (UTC) that is at least the setting ``sleep_age`` ago counts. ``limit``
    bounds the number of new summaries.
    """

    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)] | None = None
    user: User | None = None
    before: UnixTime | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100

    def __post_init__(self) -> None:
        refuse_non_finite(before=self.before)


class Merged(WireStruct, frozen=True, kw_only=True):
    """A summary and the episodes that it stands for."""

    tenant: str
    user: str = ""
    summary_id: str
    text: str
    episodes: tuple[str, ...]


class SleepReply(WireStruct, frozen=True, kw_only=True):
    """What was summed up.

    Attributes:
        merged: the new summaries.
        known: how many summaries of this plan an earlier sleep had made.
        left: how many summaries of this plan were not made: the limit was reached, or the model failed.
        held: how many old episodes were left alone because the consumer ``held_by`` has not acknowledged them.
        before: the Unix time until which episodes counted as old.
    """

    merged: tuple[Merged, ...]
    known: Integer
    left: Integer
    held: Integer
    held_by: str
    before: float


class SessionRequest(WireStruct, frozen=True, kw_only=True):
    """Read what is remembered of one session of a user."""

    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)]
    user: User = ""
    session_id: Annotated[str, Meta(pattern=SESSION_PATTERN)]


class SessionReply(WireStruct, frozen=True, kw_only=True):
    """A session's episodes in order of time; none when nothing is known of it."""

    session_id: str
    episodes: tuple[RecalledEpisode, ...]


class ConversationRequest(WireStruct, frozen=True, kw_only=True):
    """Which conversation of a user ends with this ``transcript``, a digest of its messages?"""

    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)]
    user: User = ""
    transcript: Annotated[str, Meta(pattern=rf"^[0-9a-f]{{64}}{END}")]


class ConversationReply(WireStruct, frozen=True, kw_only=True):
    """The conversation's session; None when no conversation has this transcript.

    None also when more than one has it, or the one that has it went on since.
    """

    session_id: str | None


class ForgetRequest(WireStruct, frozen=True, kw_only=True):
    """Delete one turn of a user from the record, the streams and the memory's stores, or one session; without both all
    that is the user's.

    A turn goes alone: what was said in it stays in the messages of the turns that continued it.
    """

    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)]
    user: User = ""
    session_id: Annotated[str, Meta(pattern=SESSION_PATTERN)] | None = None
    turn_id: Annotated[str, Meta(pattern=TURN_ID_PATTERN)] | None = None


class ForgetReply(WireStruct, frozen=True, kw_only=True):
    """How many episodes were deleted."""

    episodes: Integer
