"""Forgetting in the streams: a tombstone without text replaces the episode, and the broker overwrites its bytes."""

import time
from collections.abc import Collection
from contextlib import aclosing

import anyio
import msgspec

from agents.memory.stores.trace import SessionEpisode
from bus.connection import Bus
from bus.dead_letters import read_letters
from bus.errors import translate_errors
from bus.stream import delete_message, purge, read_last, read_stream
from bus.topology import ANSWERS, DEAD, EPISODES, TURNS
from bus.turn import ENDS
from schemas.envelope import Envelope
from schemas.events import AnswerReady, EpisodeForgotten, EpisodeRecorded, TurnCancelled

RUNNING_SECONDS = 20.0
"""Seconds that a running turn gets to end before what it recalled is deleted."""

POLL_SECONDS = 0.2


class _EventHead(msgspec.Struct, frozen=True):
    """The part of an event that is read here; the rest is skipped."""

    envelope: Envelope


_head_decoder = msgspec.json.Decoder(_EventHead)


async def erase(bus: Bus, member: SessionEpisode, *, tenant: str, user: str, session_id: str) -> None:
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
        user=user,
        created_at=now,
        deadline=now,
    )
    await bus.publish(EpisodeForgotten(envelope=envelope, episode_id=member.episode_id))
    with translate_errors("the record was not erased", advice="ask again"):
        for kind, stream in ((EpisodeRecorded, EPISODES), (AnswerReady, ANSWERS)):
            await _overwrite(bus, stream, bus.subjects.stage(kind.subject, member.turn_id))
        await purge(bus, TURNS, subject=bus.subjects.turn(member.turn_id))


async def erase_copies(bus: Bus, episode_ids: Collection[str]) -> None:
    """Delete what turns and dead letters hold of forgotten episodes.

    A turn that runs with recalled text of them is waited for, at most :data:`RUNNING_SECONDS`, and then cancelled.

    Raises:
        Unavailable: the broker is away; calling it again continues.
    """
    wanted = [name.encode() for name in episode_ids]
    with translate_errors("copies of the record were not erased", advice="ask again"):
        holders = await _find_holders(bus, wanted)
        with anyio.move_on_after(RUNNING_SECONDS):
            while any(envelope is not None for envelope in holders.values()):
                await anyio.sleep(POLL_SECONDS)
                holders = await _find_holders(bus, wanted)
        for turn_id, running in holders.items():
            if running is not None:
                reason = "what this turn recalled was forgotten"
                await bus.publish(TurnCancelled(envelope=running.next(TurnCancelled.subject), reason=reason))
            await _overwrite(bus, ANSWERS, bus.subjects.stage(AnswerReady.subject, turn_id))
            await purge(bus, TURNS, subject=bus.subjects.turn(turn_id))
        async with aclosing(read_letters(bus)) as letters:
            async for entry in letters:
                if any(name in entry.letter.payload for name in wanted):
                    await delete_message(bus, DEAD, entry.seq)


async def _find_holders(bus: Bus, wanted: Collection[bytes]) -> dict[str, Envelope | None]:
    """The turns whose events hold one of the wanted names: the envelope of one that still runs, None of one that has
    ended."""
    holders: dict[str, Envelope | None] = {}
    ended: set[str] = set()
    ends = tuple(f".{kind.subject}." for kind in ENDS)
    for stream, subjects in ((TURNS, bus.subjects.turns), (ANSWERS, bus.subjects.answers)):
        async with aclosing(read_stream(bus, stream, subjects)) as messages:
            async for message in messages:
                turn_id = message.subject.rpartition(".")[2]
                if any(end in message.subject for end in ends):
                    ended.add(turn_id)
                if any(name in message.data for name in wanted):
                    holders[turn_id] = _envelope_of(message.data)
    return {turn_id: None if turn_id in ended else envelope for turn_id, envelope in holders.items()}


def _envelope_of(data: bytes) -> Envelope | None:
    try:
        return _head_decoder.decode(data).envelope
    except msgspec.DecodeError:
        return None


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
