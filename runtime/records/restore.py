"""Puts the JSONL of a replay into a runtime: the record of one runtime becomes that of another."""

from collections.abc import AsyncGenerator, Iterable
from datetime import UTC, datetime

import msgspec

from bus import record
from bus.connection import Bus
from bus.stream import StoredMessage
from bus.subjects import Subjects
from schemas.base import UNREADABLE
from schemas.codec import decode, field_of
from schemas.errors import InvalidEvent, InvalidInput
from schemas.events import EpisodeForgotten, EpisodeRecorded
from schemas.services import Replayed

_KINDS: dict[str, type[EpisodeRecorded] | type[EpisodeForgotten]] = {
    kind.subject: kind for kind in (EpisodeRecorded, EpisodeForgotten)
}


async def parse_lines(bus: Bus, lines: Iterable[str], *, source: str) -> AsyncGenerator[StoredMessage, None]:
    """The lines as messages of this runtime's record; the subjects get its prefix.

    Raises:
        InvalidInput: a line is no replayed event; the message names the line.
    """
    for number, text in enumerate(lines, 1):
        if text.strip():
            try:
                yield _parse_line(bus, text)
            except InvalidInput as error:
                raise InvalidInput(f"{source}, line {number}: {error.message}", param=error.param) from error


async def restore(bus: Bus, message: StoredMessage) -> bool:
    """Record the event unless this runtime has it, or has forgotten it. Returns whether it is new.

    Raises:
        Unavailable: the broker is away; replaying again goes on where it stopped.
    """
    event = _decode_event(message)
    if isinstance(await record.find_entry(bus, event.envelope.turn_id), type(event) | EpisodeForgotten):
        return False
    return await bus.publish(event)


def _parse_line(bus: Bus, text: str) -> StoredMessage:
    try:
        replayed = msgspec.json.decode(text, type=Replayed)
    except UNREADABLE as error:
        raise InvalidInput(
            f'{error}; expected {{"seq", "stored_at", "subject", "event"}}, as \'kiki replay\' writes it.',
            param=field_of(str(error)) or "line",
        ) from error
    at = datetime.fromtimestamp(replayed.stored_at, UTC)
    event = _decode_event(StoredMessage(replayed.seq, f"{replayed.subject}.", at, bytes(replayed.event)))
    return StoredMessage(
        replayed.seq, bus.subjects.stage(replayed.subject, event.envelope.turn_id), at, bytes(replayed.event)
    )


def _decode_event(message: StoredMessage) -> EpisodeRecorded | EpisodeForgotten:
    kind = Subjects.kind(message.subject)
    if kind not in _KINDS:
        raise InvalidInput(f"'{kind}' is no event of the record: {', '.join(_KINDS)} are.", param="subject")
    try:
        return decode(_KINDS[kind], message.data)
    except InvalidEvent as error:
        raise InvalidInput(error.message, param=f"event.{error.param}" if error.param else "event") from error
