"""The log of dream episodes: exactly one entry for each that was executed, however it ended."""

from bus.connection import Bus
from bus.topology import DREAMLOG, DREAMS
from schemas.dream import DreamAborted, DreamDone, DreamRequested, DreamStatus, DreamSwapped


async def find_entry(bus: Bus, episode_id: str) -> DreamDone | DreamAborted | None:
    """The entry of an episode; None while it has none.

    Raises:
        Unavailable: the broker is away.
    """
    done = await bus.last(DreamDone, episode_id, stream=DREAMLOG)
    return done or await bus.last(DreamAborted, episode_id, stream=DREAMLOG)


async def find_swap(bus: Bus, episode_id: str) -> DreamSwapped | None:
    """The event of an episode's swap; None when there was none, or it was refused.

    Raises:
        Unavailable: the broker is away.
    """
    return await bus.last(DreamSwapped, episode_id, stream=DREAMLOG)


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
    is_waiting = await bus.last(DreamRequested, episode_id, stream=DREAMS) is not None
    return DreamStatus(episode_id=episode_id, state="waiting" if is_waiting else "unknown")
