"""Services that read the record at their own pace: register by name, fetch in order, mark as consumed.

A service's place is a durable consumer of the record. What it consumed is marked in order and without gaps, under the
id of the run that consumed it (``de_id``, as dream-of-kiki calls it).
"""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Raw

from schemas.base import WireStruct
from schemas.envelope import SESSION_PATTERN, TENANT_PATTERN
from schemas.episode import Episode

MAX_FETCH = 256
"""Records in one reply; the broker's largest message may hold fewer."""

MAX_WAIT = 30.0
"""Seconds that a fetch may wait for a first record."""

ServiceName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
RunId = Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,128}$")]
RecordId = Annotated[int, Meta(ge=1)]


class EpisodeFilter(WireStruct, frozen=True, kw_only=True):
    """Which records a service wants. ``min_saillance`` (0..1) is for episodes; a tombstone has no salience."""

    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)] | None = None
    session_id: Annotated[str, Meta(pattern=SESSION_PATTERN)] | None = None
    min_saillance: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0


class RegisterRequest(WireStruct, frozen=True, kw_only=True):
    """Take a name, and with it a durable place in the record.

    ``subjects`` are ``noun.verb`` of the record's events, ``*`` stands for any word. ``ack_wait`` is how many seconds
    fetched records belong to their holder. ``begin`` says whether what is recorded already counts.
    """

    name: ServiceName
    subjects: Annotated[tuple[str, ...], Meta(min_length=1, max_length=8)] = ("episode.recorded",)
    filter: EpisodeFilter = EpisodeFilter()
    ack_wait: Annotated[float, Meta(ge=1.0, le=86400.0)] = 30.0
    begin: Literal["first", "new"] = "first"


class ServiceInfo(WireStruct, frozen=True, kw_only=True):
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


class ServiceListRequest(WireStruct, frozen=True, kw_only=True):
    """Who is registered."""


class ServiceListReply(WireStruct, frozen=True, kw_only=True):
    """All registered services by name."""

    services: tuple[ServiceInfo, ...]


class UnregisterRequest(WireStruct, frozen=True, kw_only=True):
    """Give the name and the place up. What was marked stays in the log."""

    name: ServiceName


class FetchRequest(WireStruct, frozen=True, kw_only=True):
    """The oldest records that the service has not consumed, again and again the same until they are marked.

    ``wait`` is how many seconds to wait for a first one. ``holder`` names who works on them: for ``ack_wait`` seconds
    another holder is refused, the same one is answered again.
    """

    name: ServiceName
    limit: Annotated[int, Meta(ge=1, le=MAX_FETCH)] = 32
    wait: Annotated[float, Meta(ge=0.0, le=MAX_WAIT)] = 0.0
    holder: Annotated[str, Meta(max_length=128)] = ""


class Record(WireStruct, frozen=True, kw_only=True):
    """One event of the record. ``id`` grows with the record; ``episode`` is None on a tombstone."""

    id: RecordId
    subject: str
    stored_at: float
    turn_id: str
    session_id: str
    tenant: str
    episode_id: str
    episode: Episode | None = None


class FetchReply(WireStruct, frozen=True, kw_only=True):
    """Records in their order; fewer than asked for when no more are there or the reply would grow too large."""

    records: tuple[Record, ...]


class MarkRequest(WireStruct, frozen=True, kw_only=True):
    """``mark_consumed``: the next records in order, without a gap, consumed by the run ``de_id``."""

    name: ServiceName
    ids: Annotated[tuple[RecordId, ...], Meta(min_length=1, max_length=MAX_FETCH)]
    de_id: RunId


class MarkReply(WireStruct, frozen=True, kw_only=True):
    """How many records this call marked (none when the same run had marked them before), and the new place."""

    marked: int
    place: int


class TrimRequest(WireStruct, frozen=True, kw_only=True):
    """Drop from the record what is older than ``before`` (Unix time) and was consumed by all who are registered."""

    before: float


class TrimReply(WireStruct, frozen=True, kw_only=True):
    """How many messages were dropped, and who still needs the oldest that is left (empty: nobody)."""

    dropped: int
    held_by: str = ""


class EpisodesConsumed(WireStruct, frozen=True, kw_only=True):
    """A service marked records. Published on ``service.consumed.<name>``; the log of who consumed what, and when.

    ``registration`` tells one life of a name from the next.
    """

    subject: ClassVar[str] = "service.consumed"
    name: ServiceName
    registration: str
    ids: tuple[RecordId, ...]
    de_id: RunId
    at: float


SUBJECT_PATTERN = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$"


REPLAY_ID = "Kiki-Replay"
"""Header of every replayed message: the replay's id."""


REPLAY_SEQ = "Kiki-Seq"
"""Header: the message's sequence in the record."""


REPLAY_TIME = "Kiki-Stored-At"
"""Header: when it was stored, Unix seconds."""


REPLAY_SUBJECT = "Kiki-Subject"
"""Header: the event's ``noun.verb``."""


REPLAY_END = "Kiki-Replay-End"
"""Header of the empty message that ends a replay: how many were sent."""


REPLAY_ERROR = "Kiki-Replay-Error"
"""Header of the same message when the replay broke off: the public code."""


Speed = Literal["full", "recorded"]


class Selection(WireStruct, frozen=True, kw_only=True):
    """Which part of the record; all of it by default. Times are Unix seconds of when it was stored."""

    since: float | None = None
    until: float | None = None
    from_seq: Annotated[int, Meta(ge=1)] | None = None
    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)] | None = None
    session_id: Annotated[str, Meta(pattern=SESSION_PATTERN)] | None = None


class ReplayRequest(WireStruct, frozen=True, kw_only=True):
    """Publish a part of the record on the subject ``to``, on core NATS: whoever listens gets it, at most once.

    ``speed`` 'recorded' keeps the times between the messages. Subscribe before you ask. For a reader that must miss
    nothing there are registered services.
    """

    to: Annotated[str, Meta(pattern=SUBJECT_PATTERN, max_length=255)]
    selection: Selection = Selection()
    speed: Speed = "full"


class ReplayReply(WireStruct, frozen=True, kw_only=True):
    """The replay has begun.

    Its messages carry the headers Kiki-Replay, Kiki-Seq, Kiki-Subject and Kiki-Stored-At; an empty one with
    Kiki-Replay-End (and Kiki-Replay-Error when it broke off) is the last.
    """

    replay_id: str


class ReplayStopRequest(WireStruct, frozen=True, kw_only=True):
    """End a replay before its end."""

    replay_id: str


class ReplayStopReply(WireStruct, frozen=True, kw_only=True):
    """How many messages it had sent."""

    sent: int


class Replayed(WireStruct, frozen=True, kw_only=True):
    """A line of a replay's JSONL: one stored event, its ``noun.verb``, its place and the time it was stored."""

    seq: int
    stored_at: float
    subject: str
    event: Raw
