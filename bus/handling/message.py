"""A delivered message: the event in it, what its asker is told if it holds none, when it is tried again; and the bytes
of an event that is published. Needs nats-py and :mod:`schemas` only.
"""

import random
import time
from typing import TypeVar

import msgspec
from nats.aio.msg import Msg

from bus.subjects import Subjects
from bus.topology import ANSWERS, JOBS, TURNS
from bus.turn import invalid_stage
from schemas.codec import decode, decode_envelope, encode
from schemas.envelope import Envelope, is_turn_id
from schemas.errors import InvalidEvent, StageFailed
from schemas.events import Event, QueryReceived, TurnFailed, failure
from schemas.jobs import Job

E = TypeVar("E", bound=Event)

MAX_DELAY = 10.0
"""Upper bound in seconds of the delay before another try."""

NOBODY = "unknown"
"""The tenant of a failure whose message does not say whose it was."""


def read_event(kind: type[E], message: Msg, subjects: Subjects) -> E:
    """The event of a message, with a deadline that is no further from when it was stored than a turn may last.

    Raises:
        InvalidEvent: the bytes are not what the subject promises, the event is of another turn than its subject, or a
            job answers onto the runtime's subjects.
    """
    event = decode(kind, message.data)
    envelope = event.envelope.cap_deadline(message.metadata.timestamp.timestamp())
    if envelope is not event.envelope:
        event = msgspec.structs.replace(event, envelope=envelope)
    if Subjects.key(message.subject) != envelope.turn_id:
        raise InvalidEvent(
            f"the subject {message.subject} does not end in the turn id {envelope.turn_id}.", param="envelope.turn_id"
        )
    if isinstance(event, Job) and subjects.owns(event.reply):
        raise InvalidEvent(f"the reply subject {event.reply} is the runtime's own: give an inbox.", param="reply")
    return event


def retry_delay(attempt: int, first: float) -> float:
    """Seconds until the next try: ``first`` after the first one, growing, jittered, at most about :data:`MAX_DELAY`."""
    return min(MAX_DELAY, first * 2.0 ** min(attempt - 1, 16)) * random.uniform(0.5, 1.5)


def failure_of_unreadable(
    message: Msg, kind: type[Event], stage: str, error: InvalidEvent, subjects: Subjects
) -> TurnFailed | None:
    """The failure of the turn on whose subject an unreadable message came; None when it came on no turn's subject.

    The asker's own mistake keeps its code, a stage's is ``stage_invalid``.
    """
    turn_id = Subjects.key(message.subject)
    if message.metadata.stream not in map(subjects.stream, (TURNS, ANSWERS, JOBS)) or not is_turn_id(turn_id):
        return None
    refusal = error if issubclass(kind, QueryReceived) else invalid_stage(kind, error)
    return failure(_read_envelope(message.data, turn_id), stage, refusal)


def _read_envelope(data: bytes, turn_id: str) -> Envelope:
    """The envelope of an event that cannot be read as a whole; one that names nobody where that is unreadable, too."""
    if (envelope := decode_envelope(data)) is not None and envelope.turn_id == turn_id:
        return envelope
    now = time.time()
    return Envelope(
        event_id=f"{turn_id}:unreadable",
        turn_id=turn_id,
        session_id=turn_id,
        tenant=NOBODY,
        created_at=now,
        deadline=now,
    )


def encode_event(event: Event, limit: int) -> bytes:
    """The event as it is published; ``limit`` is how many bytes the broker takes.

    Raises:
        StageFailed: it is larger, or not what its type says.
    """
    data = encode(event)
    if len(data) > limit:
        raise StageFailed(
            f"{event.subject} has {len(data)} bytes, the broker takes {limit}: "
            "shorten the conversation; 'kiki doctor' says which limit is smaller than the model's context.",
            code="context_length_exceeded",
        )
    return data


def describe_place(guest: str) -> str:
    """What is missing of a guest that returns what it reads, and how to mend it."""
    return (
        "which nobody reads: it comes after no stage. Put 'after' into "
        f"[agents.{guest}] of the runtime's kiki.toml, or return nothing."
    )
