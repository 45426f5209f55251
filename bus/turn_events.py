"""A turn read back: every stored event of it, in the order in which they were stored."""

from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime

import structlog

from bus.connection import Bus
from bus.stream import read_stream
from bus.topology import ANSWERS, EPISODES, TURNS
from schemas.codec import decode
from schemas.errors import InvalidEvent, InvalidInput
from schemas.events import STAGE_EVENTS, AnswerReady, EpisodeRecorded, Event

_log = structlog.get_logger("bus")

_ALL: tuple[type[Event], ...] = (*STAGE_EVENTS, EpisodeRecorded)
_KINDS = {kind.subject: kind for kind in _ALL}


@dataclass(frozen=True)
class StoredEvent:
    """One stored event with its sequence in its stream and the time at which the broker stored it."""

    seq: int
    stored_at: datetime
    event: Event


async def read_turn_events(bus: Bus, turn_id: str) -> list[StoredEvent]:
    """The turn's events in the order of time, then its recorded episode; unreadable ones are only logged.

    Kinds that this version does not know are passed over.

    Raises:
        InvalidInput: nothing of that turn is stored (its events are kept for an hour only).
    """
    turn = await _read_events(bus, TURNS, bus.subjects.turn(turn_id))
    turn += await _read_events(bus, ANSWERS, bus.subjects.stage(AnswerReady.subject, turn_id))
    record = await _read_events(bus, EPISODES, bus.subjects.stage(EpisodeRecorded.subject, turn_id))
    if not turn and not record:
        raise InvalidInput(f"no event of turn '{turn_id}' is stored; turns are kept for an hour.", param="turn_id")
    return sorted(turn, key=lambda entry: entry.stored_at) + record


async def _read_events(bus: Bus, stream: str, subject: str) -> list[StoredEvent]:
    events = []
    async with aclosing(read_stream(bus, stream, [subject])) as messages:
        async for message in messages:
            kind = _KINDS.get(".".join(message.subject.split(".")[-3:-1]))
            if kind is None:
                continue  # an event of a newer runtime, or of somebody else
            try:
                event = decode(kind, message.data)
            except InvalidEvent as error:
                _log.warning("event unreadable", seq=message.seq, subject=message.subject, error=error.message)
                continue
            events.append(StoredEvent(message.seq, message.stored_at, event))
    return events
