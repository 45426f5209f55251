"""Forgetting in the streams: a tombstone without text takes the place of an episode, whose bytes are overwritten."""

import time

import nats.errors
from nats.js.errors import APIError, NotFoundError

from agents.memory.trace import Member
from bus.connection import Bus
from bus.topology import EPISODES, TURNS
from schemas.envelope import Envelope
from schemas.errors import Unavailable
from schemas.events import EpisodeForgotten, EpisodeRecorded


async def erase(bus: Bus, member: Member, *, tenant: str, session_id: str) -> None:
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
    subject = bus.subjects.stage(EpisodeRecorded.subject, member.turn_id)
    try:
        while True:
            try:
                found = await bus.js.get_last_msg(EPISODES, subject)
            except NotFoundError:
                break
            await bus.js.delete_msg(EPISODES, int(found.seq or 0))
        await bus.js.purge_stream(TURNS, subject=bus.subjects.turn(member.turn_id))
    except (TimeoutError, nats.errors.Error, APIError) as error:
        raise Unavailable(f"the record was not erased: {error or type(error).__name__}; ask again.") from error
