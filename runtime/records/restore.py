"""A replay's JSONL back into a runtime: the record of one becomes the record of another."""

from collections.abc import AsyncGenerator, Iterable
from datetime import UTC, datetime

import msgspec

from bus.connection import Bus
from bus.stream import Stored
from bus.topology import EPISODES
from schemas.codec import decode, field_of
from schemas.errors import InvalidEvent, InvalidInput
from schemas.events import EpisodeForgotten, EpisodeRecorded
from schemas.services import Replayed

_KINDS: dict[str, type[EpisodeRecorded] | type[EpisodeForgotten]] = {
    kind.subject: kind for kind in (EpisodeRecorded, EpisodeForgotten)
}


async def told(bus: Bus, lines: Iterable[str], *, source: str) -> AsyncGenerator[Stored, None]:
    """The lines as messages of this runtime's record; the subjects get its prefix.

    Raises:
        InvalidInput: a line is no replayed event; the message names the line.
    """
    for number, text in enumerate(lines, 1):
        if text.strip():
            try:
                yield _stored(bus, text)
            except InvalidInput as error:
                raise InvalidInput(f"{source}, line {number}: {error.message}", param=error.param) from error


async def restore(bus: Bus, stored: Stored) -> bool:
    """Record the event unless this runtime has it, or has forgotten it. Returns whether it is new.

    Raises:
        Unavailable: the broker is away; replaying again goes on where it stopped.
    """
    event = _decoded(stored)
    turn_id = event.envelope.turn_id
    for kind in {type(event), EpisodeForgotten}:
        if await bus.last(kind, turn_id, stream=EPISODES) is not None:
            return False
    return await bus.publish(event)


def _stored(bus: Bus, text: str) -> Stored:
    try:
        said = msgspec.json.decode(text, type=Replayed)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise InvalidInput(
            f'{error}; expected {{"seq", "stored_at", "subject", "event"}}, as \'kiki replay\' writes it.',
            param=field_of(str(error)) or "line",
        ) from error
    at = datetime.fromtimestamp(said.stored_at, UTC)
    event = _decoded(Stored(said.seq, f"{said.subject}.", at, bytes(said.event)))
    return Stored(said.seq, bus.subjects.stage(said.subject, event.envelope.turn_id), at, bytes(said.event))


def _decoded(stored: Stored) -> EpisodeRecorded | EpisodeForgotten:
    kind = ".".join(stored.subject.split(".")[-3:-1])
    if kind not in _KINDS:
        raise InvalidInput(f"'{kind}' is no event of the record: {', '.join(_KINDS)} are.", param="subject")
    try:
        return decode(_KINDS[kind], stored.data)
    except InvalidEvent as error:
        raise InvalidInput(error.message, param=f"event.{error.param}" if error.param else "event") from error
