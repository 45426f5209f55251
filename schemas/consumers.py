"""Services that read the record at their own pace: register by name, fetch in order, mark as consumed.

A service's place is a durable consumer of the record. What it consumed is marked in order and without gaps, under the
id of the run that consumed it (``de_id``, as dream-of-kiki calls it).
"""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from schemas.envelope import SESSION_PATTERN, TENANT_PATTERN
from schemas.episode import Episode

MAX_FETCH = 256
"""Records in one reply; the broker's largest message may hold fewer."""

MAX_WAIT = 30.0
"""Seconds that a fetch may wait for a first record."""

ServiceName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
RunId = Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,128}$")]
RecordId = Annotated[int, Meta(ge=1)]


class _Wire(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class EpisodeFilter(_Wire, frozen=True, kw_only=True):
    """Which records a service wants. ``min_saillance`` (0..1) is for episodes; a tombstone has no salience."""

    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)] | None = None
    session_id: Annotated[str, Meta(pattern=SESSION_PATTERN)] | None = None
    min_saillance: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0


class RegisterRequest(_Wire, frozen=True, kw_only=True):
    """Take a name, and with it a durable place in the record.

    ``subjects`` are ``noun.verb`` of the record's events, ``*`` stands for any word. ``ack_wait`` is how many seconds
    fetched records belong to their holder. ``begin`` says whether what is recorded already counts.
    """

    name: ServiceName
    subjects: Annotated[tuple[str, ...], Meta(min_length=1, max_length=8)] = ("episode.recorded",)
    filter: EpisodeFilter = EpisodeFilter()
    ack_wait: Annotated[float, Meta(ge=1.0, le=86400.0)] = 30.0
    begin: Literal["first", "new"] = "first"


class ServiceInfo(_Wire, frozen=True, kw_only=True):
    """A registered service. Everything up to the record ``place`` is consumed, up to ``delivered`` was given out.

    ``lag`` counts the records behind ``place`` that the service has not consumed, whatever its filter says of them.
    """

    name: ServiceName
    subjects: tuple[str, ...]
    filter: EpisodeFilter
    ack_wait: float
    registered_at: float
    place: int
    delivered: int
    lag: int


class ServiceListRequest(_Wire, frozen=True, kw_only=True):
    """Who is registered."""


class ServiceListReply(_Wire, frozen=True, kw_only=True):
    """All registered services by name."""

    services: tuple[ServiceInfo, ...]


class UnregisterRequest(_Wire, frozen=True, kw_only=True):
    """Give the name and the place up. What was marked stays in the log."""

    name: ServiceName


class FetchRequest(_Wire, frozen=True, kw_only=True):
    """The oldest records that the service has not consumed, again and again the same until they are marked.

    ``wait`` is how many seconds to wait for a first one. ``holder`` names who works on them: for ``ack_wait`` seconds
    another holder is refused, the same one is answered again.
    """

    name: ServiceName
    limit: Annotated[int, Meta(ge=1, le=MAX_FETCH)] = 32
    wait: Annotated[float, Meta(ge=0.0, le=MAX_WAIT)] = 0.0
    holder: Annotated[str, Meta(max_length=128)] = ""


class Record(_Wire, frozen=True, kw_only=True):
    """One event of the record. ``id`` grows with the record; ``episode`` is None on a tombstone."""

    id: RecordId
    subject: str
    stored_at: float
    turn_id: str
    session_id: str
    tenant: str
    episode_id: str
    episode: Episode | None = None


class FetchReply(_Wire, frozen=True, kw_only=True):
    """Records in their order; fewer than asked for when no more are there or the reply would grow too large."""

    records: tuple[Record, ...]


class MarkRequest(_Wire, frozen=True, kw_only=True):
    """``mark_consumed``: the next records in order, without a gap, consumed by the run ``de_id``."""

    name: ServiceName
    ids: Annotated[tuple[RecordId, ...], Meta(min_length=1, max_length=MAX_FETCH)]
    de_id: RunId


class MarkReply(_Wire, frozen=True, kw_only=True):
    """How many records this call marked (none when the same run had marked them before), and the new place."""

    marked: int
    place: int


class TrimRequest(_Wire, frozen=True, kw_only=True):
    """Drop from the record what is older than ``before`` (Unix time) and was consumed by all who are registered."""

    before: float


class TrimReply(_Wire, frozen=True, kw_only=True):
    """How many messages were dropped, and who still needs the oldest that is left (empty: nobody)."""

    dropped: int
    held_by: str = ""


class EpisodesConsumed(_Wire, frozen=True, kw_only=True):
    """A service marked records. Published on ``service.consumed.<name>``; the log of who consumed what, and when.

    ``registration`` tells one life of a name from the next.
    """

    subject: ClassVar[str] = "service.consumed"
    name: ServiceName
    registration: str
    ids: tuple[RecordId, ...]
    de_id: RunId
    at: float
