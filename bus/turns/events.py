"""A turn read back: every stored event of it in the order in which they were stored, its end, its first verdict."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import structlog

from bus import metrics
from bus.connection import Bus
from bus.stream import read_next, read_stream
from bus.subjects import Subjects
from bus.topology import ANSWERS, EPISODES, TURNS
from bus.turn import invalid_stage
from schemas.codec import decode
from schemas.errors import InvalidEvent, InvalidInput
from schemas.events import ENDS, STAGE_EVENTS, AnswerReady, EpisodeRecorded, Event, TurnCancelled, TurnFailed

E = TypeVar("E", bound=Event)

_log = structlog.get_logger("bus")

_ALL: tuple[type[Event], ...] = (*STAGE_EVENTS, EpisodeRecorded)
_KINDS = {kind.subject: kind for kind in _ALL}


@dataclass(frozen=True)
class StoredEvent:
    """One stored event with its sequence in its stream and the time at which the broker stored it.

    ``guest`` is who published it, where that is a guest after a stage.
    """

    seq: int
    stored_at: datetime
    event: Event
    guest: str = ""

    @property
    def subject(self) -> str:
        """Its noun and verb, as it was published."""
        verb = self.event.subject.partition(".")[2]
        return f"{self.guest}.{verb}" if self.guest else self.event.subject


async def read_turn_events(bus: Bus, turn_id: str) -> list[StoredEvent]:
    """The turn's events in the order of time, then its recorded episode; unreadable ones are only logged.

    Kinds that this version does not know are passed over.

    Raises:
        InvalidInput: nothing of that turn is stored (its events are kept for an hour only).
    """
    turn = await _read_events(bus, TURNS, bus.subjects.turn(turn_id))
    turn += await _read_events(bus, ANSWERS, bus.subjects.turn(turn_id))
    record = await _read_events(bus, EPISODES, bus.subjects.stage(EpisodeRecorded.subject, turn_id))
    if not turn and not record:
        raise InvalidInput(f"no event of turn '{turn_id}' is stored; turns are kept for an hour.", param="turn_id")
    return sorted(turn, key=lambda entry: entry.stored_at) + record


async def find_end(bus: Bus, turn_id: str) -> AnswerReady | TurnFailed | TurnCancelled | None:
    """How the turn ended: the first end that is stored counts, whoever published another one; None while it runs.

    Raises:
        InvalidStage: a stage published an end that is not what its subject promises.
        Unavailable: the broker is away.
    """
    stored = await read_next(bus, ANSWERS, 1, bus.subjects.turn(turn_id))
    kind = None if stored is None else _KINDS.get(Subjects.kind(stored.subject))
    if stored is None or kind not in ENDS:
        return None
    try:
        end = decode(kind, stored.data)
    except InvalidEvent as error:
        raise invalid_stage(kind, error) from error
    assert isinstance(end, AnswerReady | TurnFailed | TurnCancelled)
    return end


async def find_first(
    bus: Bus, kinds: Sequence[type[E]], turn_id: str, *, stream: str = TURNS, direct: bool = False
) -> E | None:
    """The turn's first stored event of several kinds that share their noun (``dissent.*``); an unreadable one is passed
    over.

    With ``direct`` the answer is quicker and may be a replica's that lags behind: ask again where None is not believed.

    Raises:
        Unavailable: the broker is away.
    """
    by_name = {kind.subject: kind for kind in kinds}
    (noun,) = {name.split(".")[0] for name in by_name}
    subject, seq = bus.subjects.stage(f"{noun}.*", turn_id), 1
    while (stored := await read_next(bus, stream, seq, subject, direct=direct)) is not None:
        try:
            return decode(by_name[Subjects.kind(stored.subject)], stored.data)
        except (InvalidEvent, KeyError) as error:
            metrics.count_degraded("bus.unreadable", f"{stream} {stored.seq} is passed over: {error}")
        seq = stored.seq + 1
    return None


async def _read_events(bus: Bus, stream: str, subject: str) -> list[StoredEvent]:
    events, of_guests = [], bus.subjects.guest_events
    async with aclosing(read_stream(bus, stream, [subject])) as messages:
        async for message in messages:
            noun_verb = Subjects.kind(message.subject)
            original = of_guests.get(noun_verb, noun_verb)
            kind = _KINDS.get(original)
            if kind is None:
                continue  # an event of a newer runtime, or of somebody else
            try:
                event = decode(kind, message.data)
            except InvalidEvent as error:
                _log.warning("event unreadable", seq=message.seq, subject=message.subject, error=error.message)
                continue
            guest = noun_verb.partition(".")[0] if original != noun_verb else ""
            events.append(StoredEvent(message.seq, message.stored_at, event, guest))
    return events
