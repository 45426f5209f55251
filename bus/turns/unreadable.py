"""Telling the asker of a turn that a message of it could not be read."""

from nats.aio.msg import Msg

from bus.connection import Bus
from bus.handling.message import failure_of_unreadable
from bus.stream import read_next
from bus.topology import TURNS
from schemas.errors import InvalidEvent
from schemas.events import Event, QueryReceived


async def report_malformed(bus: Bus, message: Msg, kind: type[Event], stage: str, error: InvalidEvent) -> None:
    """Publish that the turn on whose subject the message came has failed; ``kind`` is what the subject promises.

    A question under a turn id that another question has taken before does not end that one's turn: only who listens now
    is told.

    Raises:
        Unavailable: the broker is away.
    """
    failed = failure_of_unreadable(message, kind, stage, error, bus.subjects)
    if failed is None:
        return
    first = await read_next(bus, TURNS, 1, bus.subjects.stage(QueryReceived.subject, failed.envelope.turn_id))
    if issubclass(kind, QueryReceived) and first is not None and first.seq < message.metadata.sequence.stream:
        await bus.announce(failed)
    else:
        await bus.publish(failed)
