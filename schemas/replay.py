"""The record again: which part of it, where to, and how fast."""

from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct

from schemas.envelope import SESSION_PATTERN, TENANT_PATTERN

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


class _Wire(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Selection(_Wire, frozen=True, kw_only=True):
    """Which part of the record; all of it by default. Times are Unix seconds of when it was stored."""

    since: float | None = None
    until: float | None = None
    from_seq: Annotated[int, Meta(ge=1)] | None = None
    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)] | None = None
    session_id: Annotated[str, Meta(pattern=SESSION_PATTERN)] | None = None


class ReplayRequest(_Wire, frozen=True, kw_only=True):
    """Publish a part of the record on the subject ``to``, on core NATS: whoever listens gets it, at most once.

    ``speed`` 'recorded' keeps the times between the messages. Subscribe before you ask. For a reader that must miss
    nothing there are registered services.
    """

    to: Annotated[str, Meta(pattern=SUBJECT_PATTERN, max_length=255)]
    selection: Selection = Selection()
    speed: Speed = "full"


class ReplayReply(_Wire, frozen=True, kw_only=True):
    """The replay has begun.

    Its messages carry the headers Kiki-Replay, Kiki-Seq, Kiki-Subject and Kiki-Stored-At; an empty one with
    Kiki-Replay-End (and Kiki-Replay-Error when it broke off) is the last.
    """

    replay_id: str


class ReplayStopRequest(_Wire, frozen=True, kw_only=True):
    """End a replay before its end."""

    replay_id: str


class ReplayStopReply(_Wire, frozen=True, kw_only=True):
    """How many messages it had sent."""

    sent: int


class Replayed(_Wire, frozen=True, kw_only=True):
    """A line of a replay's JSONL: one stored event, its ``noun.verb``, its place and the time it was stored."""

    seq: int
    stored_at: float
    subject: str
    event: Raw
