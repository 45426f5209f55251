"""Services that read the record at their own pace: register by name, fetch in order, mark as consumed.

The stream SERVICES is the log: it has every registration, and every mark. The records that a service consumed are
marked in order and without gaps, under the id of the run that consumed them (``de_id``, the name that dream-of-kiki
gives it).
"""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Raw

from schemas.base import END, SUBJECT_PATTERN, Integer, WireStruct, refuse_non_finite
from schemas.envelope import SESSION_PATTERN, TENANT_PATTERN, User
from schemas.episode import Episode
from schemas.numbers import UnixTime

MAX_FETCH = 256
"""The most records in one reply; there may be fewer, because the reply must fit into one message."""

MAX_WAIT = 30.0
"""The most seconds that a fetch may wait for a first record."""

ServiceName = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9][A-Za-z0-9_-]{{0,63}}{END}")]
RunId = Annotated[str, Meta(pattern=rf"^[\x21-\x7e]{{1,128}}{END}")]
MAX_ID = 2**53 - 1
"""The largest id of a record: the largest integer that every reader of JSON keeps exactly."""

RecordId = Annotated[int, Meta(ge=1, le=MAX_ID)]
RecordPlace = Annotated[int, Meta(ge=0, le=MAX_ID)]
RegistrationId = Annotated[str, Meta(min_length=1, max_length=64)]
Seconds = Annotated[float, Meta(ge=1.0, le=86400.0)]


class EpisodeFilter(WireStruct, frozen=True, kw_only=True):
    """Which records a service wants; ``user`` is a name within the tenant.

    ``min_saillance`` (0..1) applies to episodes; a tombstone has no salience.
    """

    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)] | None = None
    user: User | None = None
    session_id: Annotated[str, Meta(pattern=SESSION_PATTERN)] | None = None
    min_saillance: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0


class RegisterRequest(WireStruct, frozen=True, kw_only=True):
    """Register a service under a name; it gets a durable place in the record.

    ``subjects`` are ``noun.verb`` of the record's events, ``*`` stands for any word. By default tombstones come, too:
    ``episode.forgotten`` says that a record which the service may hold was forgotten. ``ack_wait`` is for how many
    seconds fetched records are reserved for their holder. ``begin``: "first" starts with the oldest stored record,
    "new" with the first one that is stored from now on.
    """

    name: ServiceName
    subjects: Annotated[tuple[str, ...], Meta(min_length=1, max_length=8)] = ("episode.recorded", "episode.forgotten")
    filter: EpisodeFilter = EpisodeFilter()
    ack_wait: Seconds = 30.0
    begin: Literal["first", "new"] = "first"


class ServiceInfo(WireStruct, frozen=True, kw_only=True):
    """A registered service. All records up to id ``place`` are consumed; those up to ``delivered`` were delivered.

    ``lag`` counts the records after ``place`` that the service has not consumed; those that its filter leaves out
    count until a fetch has passed over them. ``registration`` is the id of the registration, which is new each time
    that the name is registered; the marks in the log carry it.
    """

    name: ServiceName
    subjects: tuple[str, ...]
    filter: EpisodeFilter
    ack_wait: float
    registered_at: float
    place: Integer
    delivered: Integer
    lag: Integer
    registration: str = ""


class ServiceListRequest(WireStruct, frozen=True, kw_only=True):
    """List the registered services."""


class ServiceListReply(WireStruct, frozen=True, kw_only=True):
    """All registered services, sorted by name.

    ``others`` are the record's durable consumers that are named like a service's and that no registration made: they
    keep ``trim`` and ``sleep`` waiting until 'nats consumer rm' removes them.
    """

    services: tuple[ServiceInfo, ...]
    others: tuple[str, ...] = ()


class UnregisterRequest(WireStruct, frozen=True, kw_only=True):
    """Remove a registration: its name and its place in the record. The log of its marks stays."""

    name: ServiceName


class FetchRequest(WireStruct, frozen=True, kw_only=True):
    """Fetch the oldest records that the service has not consumed; the same ones each time until they are marked.

    ``wait`` is how many seconds to wait for a first record. ``holder`` names the process that works on the records: for
    ``ack_wait`` seconds a fetch of another holder is refused, while the same holder gets the records again.
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
    user: str = ""
    episode_id: str
    episode: Episode | None = None


class FetchReply(WireStruct, frozen=True, kw_only=True):
    """Records in their order; fewer than the limit when there are no more or the reply would become too large."""

    records: tuple[Record, ...]


class MarkRequest(WireStruct, frozen=True, kw_only=True):
    """Mark the next records, in order and without a gap, as consumed by the run ``de_id``."""

    name: ServiceName
    ids: Annotated[tuple[RecordId, ...], Meta(min_length=1, max_length=MAX_FETCH)]
    de_id: RunId


class MarkReply(WireStruct, frozen=True, kw_only=True):
    """How many records this request marked (0 when the same run had marked them before), and the new place.

    ``forgotten`` are ids of the request that the record does not hold any more; they are passed over.
    """

    marked: Integer
    place: Integer
    forgotten: tuple[Integer, ...] = ()


class TrimRequest(WireStruct, frozen=True, kw_only=True):
    """Drop records that are older than ``before`` (Unix time), that every registered service has consumed and every
    other durable consumer has acknowledged."""

    before: UnixTime

    def __post_init__(self) -> None:
        refuse_non_finite(before=self.before)


class TrimReply(WireStruct, frozen=True, kw_only=True):
    """How many messages were dropped, and which consumer still needs the oldest that is left (empty: none)."""

    dropped: Integer
    held_by: str = ""


class ServiceRegistered(WireStruct, frozen=True, kw_only=True):
    """A registration as the log has it. Published on ``service.registered.<name>``; the last one on it holds.

    Written anew each time that a service gets records or that much was written to the log since.

    Attributes:
        registration: the id of the registration, which is new each time that the name is registered.
        place: up to this record everything was consumed, or the registration begins after it. A later mark counts more.
        passed: up to this record there is nothing that the service wants and has not consumed.
        delivered: up to this record everything was given to the service.
        marks_after: the sequence of the log after which this registration's marks lie.
        ended: whether this ends the registration.
        at: when this was written (Unix time).
    """

    subject: ClassVar[str] = "service.registered"
    name: ServiceName
    registration: RegistrationId
    subjects: tuple[str, ...]
    filter: EpisodeFilter
    ack_wait: Seconds
    registered_at: UnixTime
    place: RecordPlace
    passed: RecordPlace
    delivered: RecordPlace
    marks_after: RecordPlace = 0
    ended: bool = False
    at: UnixTime


class EpisodesConsumed(WireStruct, frozen=True, kw_only=True):
    """A service marked records. Published on ``service.consumed.<name>``: the log of which run consumed what, and when.

    ``registration`` is the id of the registration, which is new each time that the name is registered: ``ServiceInfo``
    and ``service.registered.<name>`` tell it. Records are marked by the request ``services.mark``, which writes this. A
    message under another id, or of records that were never given out, marks nothing.
    """

    subject: ClassVar[str] = "service.consumed"
    name: ServiceName
    registration: str
    ids: tuple[RecordId, ...]
    de_id: RunId
    at: float


REPLAY_ID = "Kiki-Replay"
"""Header of every message of a replay: the replay's id."""

REPLAY_SEQ = "Kiki-Seq"
"""Header of a replayed message: its sequence in the record."""

REPLAY_TIME = "Kiki-Stored-At"
"""Header of a replayed message: when the record stored it, in Unix seconds."""

REPLAY_SUBJECT = "Kiki-Subject"
"""Header of a replayed message: its event's ``noun.verb``."""

REPLAY_END = "Kiki-Replay-End"
"""Header of the empty message that ends a replay: how many messages were sent."""

REPLAY_ERROR = "Kiki-Replay-Error"
"""Header of that last message when the replay broke off: the public error code."""

Speed = Literal["full", "recorded"]


class Selection(WireStruct, frozen=True, kw_only=True):
    """A part of the record; all of it by default. ``since`` and ``until`` are Unix times of storing a message."""

    since: UnixTime | None = None
    until: UnixTime | None = None
    from_seq: RecordId | None = None
    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)] | None = None
    user: User | None = None
    session_id: Annotated[str, Meta(pattern=SESSION_PATTERN)] | None = None

    def __post_init__(self) -> None:
        refuse_non_finite(since=self.since, until=self.until)


class ReplayRequest(WireStruct, frozen=True, kw_only=True):
    """Publish a part of the record on the subject ``to``, on core NATS: each subscriber gets a message at most once.

    ``speed`` 'recorded' keeps the times between the messages. Subscribe before the request. A reader that must not miss
    a message should register as a service instead.
    """

    to: Annotated[str, Meta(pattern=SUBJECT_PATTERN, max_length=255)]
    selection: Selection = Selection()
    speed: Speed = "full"


class ReplayReply(WireStruct, frozen=True, kw_only=True):
    """The replay has begun.

    Its messages carry the headers Kiki-Replay, Kiki-Seq, Kiki-Subject and Kiki-Stored-At. The last message is empty and
    carries Kiki-Replay-End, and Kiki-Replay-Error with the public error code when the replay broke off.
    """

    replay_id: str


class ReplayStopRequest(WireStruct, frozen=True, kw_only=True):
    """Stop a replay before its end."""

    replay_id: str


class ReplayStopReply(WireStruct, frozen=True, kw_only=True):
    """How many messages the replay had sent."""

    sent: Integer


class Replayed(WireStruct, frozen=True, kw_only=True):
    """A line of a replay written as JSONL: one stored event, its ``noun.verb``, its sequence and when it was stored."""

    seq: RecordPlace
    stored_at: UnixTime
    subject: str
    event: Raw
