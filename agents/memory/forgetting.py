"""Forgetting in the streams: a tombstone without text takes the place of an episode, whose bytes are overwritten."""

import time
from contextlib import aclosing

import nats.errors
from nats.js.errors import APIError, NotFoundError

from agents.memory.stores.trace import SessionEpisode
from bus.connection import Bus
from bus.stream import read_stream
from bus.topology import ANSWERS, EPISODES, TURNS
from schemas.envelope import Envelope
from schemas.errors import Unavailable
from schemas.events import AnswerReady, EpisodeForgotten, EpisodeRecorded


async def erase(bus: Bus, member: SessionEpisode, *, tenant: str, session_id: str) -> None:
    """Publish the tombstone, then delete the episode's messages (the broker overwrites them) and the turn's events.

    Raises:
        Unavailable: the broker is away; erasing again goes on.
    """
    now = time.time()
    envelope = Envelope(
        event_id=f"{member.turn_id}:memory-forget",
        turn_id=member.turn_id,
        session_id=session_id,
        tenant=tenant,
        created_at=now,
        deadline=now,
    )
    await bus.publish(EpisodeForgotten(envelope=envelope, episode_id=member.episode_id))
    try:
        for kind, stream in ((EpisodeRecorded, EPISODES), (AnswerReady, ANSWERS)):
            await _overwrite(bus, stream, bus.subjects.stage(kind.subject, member.turn_id))
        await bus.js.purge_stream(TURNS, subject=bus.subjects.turn(member.turn_id))
    except (TimeoutError, nats.errors.Error, APIError) as error:
        raise Unavailable(f"the record was not erased: {error or type(error).__name__}; ask again.") from error


async def expire(bus: Bus, *, age: float) -> int:
    """Overwrite the answers that are older than ``age`` seconds; return how many these were.

    The stream does not do it by itself: what it drops for its age stays readable in its files for a while.

    Raises:
        Unavailable: the broker is away.
    """
    before, count = time.time() - age, 0
    try:
        async with aclosing(read_stream(bus, ANSWERS, bus.subjects.answers)) as answers:
            async for answer in answers:
                if answer.stored_at.timestamp() > before:
                    break
                await bus.js.delete_msg(ANSWERS, answer.seq)
                count += 1
    except (TimeoutError, nats.errors.Error, APIError) as error:
        raise Unavailable(f"old answers were not removed: {error or type(error).__name__}.") from error
    return count


async def _overwrite(bus: Bus, stream: str, subject: str) -> None:
    while True:
        try:
            message = await bus.js.get_last_msg(stream, subject)
        except NotFoundError:
            return
        await bus.js.delete_msg(stream, int(message.seq or 0))
