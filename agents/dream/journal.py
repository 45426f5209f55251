"""The log of dream episodes: exactly one entry for each that was executed, however it ended."""

from typing import TypeVar

from bus import metrics
from bus.connection import Bus
from bus.stream import StoredMessage, read_latest
from bus.topology import DREAMLOG, DREAMS
from schemas.codec import decode
from schemas.dream import DreamAborted, DreamDone, DreamRequested, DreamStatus, DreamSwapped
from schemas.errors import InvalidEvent
from schemas.events import Event

E = TypeVar("E", bound=Event)


async def find_entry(bus: Bus, episode_id: str) -> DreamDone | DreamAborted | None:
    """The entry of an episode; None while it has none.

    Raises:
        Unavailable: the broker is away.
    """
    return await _find_last(bus, DreamDone, episode_id) or await _find_last(bus, DreamAborted, episode_id)


async def find_swap(bus: Bus, episode_id: str) -> DreamSwapped | None:
    """The event of an episode's swap; None when there was none, or it was refused.

    Raises:
        Unavailable: the broker is away.
    """
    return await _find_last(bus, DreamSwapped, episode_id)


async def write_entry(bus: Bus, outcome: DreamDone | DreamAborted) -> None:
    """Store an entry, unless the episode has one: a result stored before a crash stays the result after it.

    Raises:
        Unavailable: the broker is away.
    """
    if await find_entry(bus, outcome.report.episode_id) is None:
        await bus.publish(outcome)


async def read_status(bus: Bus, episode_id: str) -> DreamStatus:
    """How far an episode has come.

    Raises:
        Unavailable: the broker is away.
    """
    outcome = await find_entry(bus, episode_id)
    if isinstance(outcome, DreamDone):
        return DreamStatus(episode_id=episode_id, state="done", report=outcome.report)
    if isinstance(outcome, DreamAborted):
        return DreamStatus(
            episode_id=episode_id,
            state="aborted",
            report=outcome.report,
            code=outcome.code,
            message=outcome.message,
            param=outcome.param,
        )
    is_waiting = await _find_last(bus, DreamRequested, episode_id, stream=DREAMS) is not None
    return DreamStatus(episode_id=episode_id, state="waiting" if is_waiting else "unknown")


async def _find_last(bus: Bus, kind: type[E], episode_id: str, *, stream: str = DREAMLOG) -> E | None:
    """The last event of a kind of an episode that can be read; None without one.

    One that cannot be read is counted and hides none: an episode that has its entry must not be executed again.
    """

    def parse(message: StoredMessage) -> E | None:
        try:
            return decode(kind, message.data)
        except InvalidEvent as error:
            metrics.count_degraded("dream.unreadable", f"message {message.seq} of {stream}: {error.message}")
            return None

    event, _ = await read_latest(bus, stream, bus.subjects.stage(kind.subject, episode_id), parse)
    return event
