"""Telling the asker of a turn that a message of it could not be read."""

import time

from nats.aio.msg import Msg

from bus.connection import Bus
from bus.stream import read_next
from bus.topology import ANSWERS, JOBS, TURNS
from bus.turn import invalid_stage
from schemas.codec import decode_envelope
from schemas.envelope import Envelope, is_turn_id
from schemas.errors import InvalidEvent
from schemas.events import Event, QueryReceived, failure

NOBODY = "unknown"
"""The tenant of a failure whose message does not say whose it was."""


async def report_malformed(bus: Bus, message: Msg, kind: type[Event], stage: str, error: InvalidEvent) -> None:
    """Publish that the turn on whose subject the message came has failed; ``kind`` is what the subject promises.

    The asker's own mistake keeps its code, a stage's is ``stage_invalid``. A question under a turn id that another
    question has taken before does not end that one's turn: only who listens now is told.

    Raises:
        Unavailable: the broker is away.
    """
    turn_id = bus.subjects.key(message.subject)
    if message.metadata.stream not in map(bus.subjects.stream, (TURNS, ANSWERS, JOBS)) or not is_turn_id(turn_id):
        return
    refusal = error if issubclass(kind, QueryReceived) else invalid_stage(kind, error)
    failed = failure(read_envelope(message.data, turn_id), stage, refusal)
    first = await read_next(bus, TURNS, 1, bus.subjects.stage(QueryReceived.subject, turn_id))
    if issubclass(kind, QueryReceived) and first is not None and first.seq < message.metadata.sequence.stream:
        await bus.announce(failed)
    else:
        await bus.publish(failed)


def read_envelope(data: bytes, turn_id: str) -> Envelope:
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
