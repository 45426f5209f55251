"""Forgetting in the streams: a tombstone without text replaces the episode, and the broker overwrites its bytes."""

import time
from contextlib import aclosing

from agents.memory.stores.trace import SessionEpisode
from bus.connection import Bus
from bus.errors import translate_errors
from bus.stream import delete_message, purge, read_last, read_stream
from bus.topology import ANSWERS, EPISODES, TURNS
from schemas.envelope import Envelope
from schemas.events import AnswerReady, EpisodeForgotten, EpisodeRecorded


async def erase(bus: Bus, member: SessionEpisode, *, tenant: str, session_id: str) -> None:
    """Publish the tombstone, then delete the episode's messages (the broker overwrites them) and the turn's events.

    Raises:
        Unavailable: the broker is away; calling it again continues.
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
    with translate_errors("the record was not erased", advice="ask again"):
        for kind, stream in ((EpisodeRecorded, EPISODES), (AnswerReady, ANSWERS)):
            await _overwrite(bus, stream, bus.subjects.stage(kind.subject, member.turn_id))
        await purge(bus, TURNS, subject=bus.subjects.turn(member.turn_id))


async def expire(bus: Bus, *, age: float) -> int:
    """Overwrite the answers that are older than ``age`` seconds; return their number.

    A maximum age on the stream would not do: messages dropped for their age stay readable in the files for a while.

    Raises:
        Unavailable: the broker is away.
    """
    before, count = time.time() - age, 0
    with translate_errors("old answers were not removed"):
        async with aclosing(read_stream(bus, ANSWERS, bus.subjects.answers)) as answers:
            async for answer in answers:
                if answer.stored_at.timestamp() > before:
                    break
                await delete_message(bus, ANSWERS, answer.seq)
                count += 1
    return count


async def _overwrite(bus: Bus, stream: str, subject: str) -> None:
    while (message := await read_last(bus, stream, subject)) is not None:
        await delete_message(bus, stream, message.seq)
