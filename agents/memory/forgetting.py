"""Forgetting: in the streams a tombstone without text replaces the episode, and the broker overwrites its bytes; the
stores drop it."""

import time
from collections.abc import Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import anyio
import msgspec
import structlog

from agents.memory.context import windows_without
from agents.memory.episodes import episode_id, store_key
from agents.memory.progress import RECORD, TAKEN, wait_until_remembered
from agents.memory.stores.pair import Stores
from agents.memory.stores.trace import SessionEpisode
from bus import failpoints
from bus.connection import Bus
from bus.consumers import read_consumer
from bus.dead_letters import read_letters, read_payload
from bus.errors import translate_errors
from bus.record import find_entry
from bus.storage import objects
from bus.stream import delete_message, find_sequences, measure_stream, purge, read_last, read_stream
from bus.topology import ANSWER_MAX_BYTES, ANSWERS, DEAD, EPISODES, TURNS
from bus.turns.events import read_turn_events
from schemas.codec import decode_envelope
from schemas.envelope import Envelope
from schemas.errors import InvalidInput
from schemas.events import ENDS, AnswerReady, AnswerTaken, EpisodeForgotten, EpisodeRecorded, TurnCancelled
from schemas.memory import ForgetReply, ForgetRequest
from schemas.status import DeadLetter

RUNNING_SECONDS = 20.0
"""Seconds that a running turn gets to end before what it recalled is deleted."""

POLL_SECONDS = 0.2

_log = structlog.get_logger("memory")


async def forget(bus: Bus, stores: Stores, request: ForgetRequest) -> ForgetReply:
    """Publish a tombstone for each episode, then remove its text from the record, the turns and the stores.

    Summaries that tell of what is forgotten are forgotten with it.

    Raises:
        InvalidInput: neither a user, a session nor a turn is named, or the turn still runs.
        Unavailable: the broker or a store failed; the same request again continues where this one stopped.
    """
    tenant, user = request.tenant, request.user
    if not user and request.session_id is None and request.turn_id is None:
        raise InvalidInput("whose memory is to be forgotten? Name a user, a session or a turn.", param="user")
    await wait_until_remembered(bus)
    async with stores.write_lock:
        if request.turn_id is not None:
            return await _forget_turn(bus, stores, request.turn_id, tenant=tenant, user=user)
        trace = stores.trace
        named = [request.session_id] if request.session_id else await trace.sessions(tenant=tenant, user=user)
        tell_of_them = [await trace.summaries_of(session_id, tenant=tenant, user=user) for session_id in named]
        summaries = {session_id for session_ids in tell_of_them for session_id in session_ids} - {*named}
        sessions = await _forget_sessions(bus, stores, [*sorted(summaries), *named], tenant=tenant, user=user)
    count = sum(session_id in named for session_id in sessions)
    _log.info("memory forgotten", sessions=len(named), episodes=count, summaries=len(summaries))
    return ForgetReply(episodes=count)


async def finish_forgetting(bus: Bus, stores: Stores) -> None:
    """Go on with what a process was forgetting when it died: all that has a tombstone in the last tombstone's session.

    What has none stays, as whoever wanted it forgotten got no reply and asks again.

    Raises:
        Unavailable: the broker or a store failed; calling it again continues.
    """
    tombstone = await bus.last(EpisodeForgotten, "*", stream=EPISODES)
    if tombstone is None:
        return
    envelope = tombstone.envelope
    tenant, user, session_id = envelope.tenant, envelope.user, envelope.session_id
    async with stores.write_lock:
        turns = {member.turn_id for member in await stores.trace.turns(session_id, tenant=tenant, user=user)}
        if await read_last(bus, EPISODES, bus.subjects.stage(EpisodeRecorded.subject, envelope.turn_id)) is not None:
            turns.add(envelope.turn_id)  # a store that was emptied since does not know it
        for turn_id in sorted(turns):
            if isinstance(await find_entry(bus, turn_id), EpisodeForgotten):
                await _forget_turn(bus, stores, turn_id, tenant=tenant, user=user)


async def _forget_sessions(bus: Bus, stores: Stores, sessions: Sequence[str], *, tenant: str, user: str) -> list[str]:
    """Forget whole sessions; return the session of each episode that they had."""
    trace = stores.trace
    episodes = [
        (session_id, member)
        for session_id in sessions
        for member in await trace.turns(session_id, tenant=tenant, user=user)
    ]
    names = [store_key(tenant, "episode", member.episode_id) for _, member in episodes]
    await stores.atlas.remove(names, {})  # no later turn recalls them
    await failpoints.pass_window("forget.removed")
    await erase_copies(bus, [member.episode_id for _, member in episodes], tenant=tenant)
    for session_id, member in episodes:
        await erase(bus, member, tenant=tenant, user=user, session_id=session_id)
    for session_id in sessions:
        if parts := await trace.parts_of(session_id, tenant=tenant, user=user):
            await stores.atlas.mark_summarised(parts, "")  # what a summary summed up ranks as before
        await trace.remove_session(session_id, tenant=tenant, user=user)
    return [session_id for session_id, _ in episodes]


async def _forget_turn(bus: Bus, stores: Stores, turn_id: str, *, tenant: str, user: str) -> ForgetReply:
    """Forget a turn's episode, if it has one, and its events; nothing where the turn is somebody else's or unknown."""
    entry = await find_entry(bus, turn_id)
    if entry is None:
        await _erase_unrecorded(bus, turn_id, tenant=tenant, user=user)
    if entry is None or (entry.envelope.tenant, entry.envelope.user) != (tenant, user):
        return ForgetReply(episodes=0)
    session_id, trace = entry.envelope.session_id, stores.trace
    member = SessionEpisode(episode_id=episode_id(tenant=tenant, turn_id=turn_id), turn_id=turn_id)
    key = store_key(tenant, "episode", member.episode_id)
    summaries = await trace.nodes([node for _, node in await trace.summaries([key])])
    await _forget_sessions(bus, stores, [node["session_id"] for node in summaries.values()], tenant=tenant, user=user)
    order = [
        store_key(tenant, "episode", other.episode_id)
        for other in await trace.turns(session_id, tenant=tenant, user=user)
    ]
    await stores.atlas.remove([key], windows_without(key, order))
    await failpoints.pass_window("forget.removed")
    if node := (await trace.nodes([key])).get(key):
        await stores.atlas.mark_summarised(sorted(node["parts"]), "")
    await erase_copies(bus, [member.episode_id], tenant=tenant)
    await erase(bus, member, tenant=tenant, user=user, session_id=session_id)
    await trace.remove_episode(member.episode_id, session_id, tenant=tenant, user=user)
    _log.info("turn forgotten", turn_id=turn_id)
    return ForgetReply(episodes=int(isinstance(entry, EpisodeRecorded)))


async def _erase_unrecorded(bus: Bus, turn_id: str, *, tenant: str, user: str) -> None:
    """Delete what the streams hold of a turn that the record does not have.

    Raises:
        InvalidInput: it still runs.
    """
    try:
        events = [entry.event for entry in await read_turn_events(bus, turn_id)]
    except InvalidInput:
        return  # nothing is stored of it
    if not any((event.envelope.tenant, event.envelope.user) == (tenant, user) for event in events):
        return
    if not any(isinstance(event, ENDS) or event.envelope.remaining <= 0 for event in events):
        raise InvalidInput(f"turn '{turn_id}' still runs: cancel it first.", param="turn_id")
    with translate_errors("the turn was not erased", advice="ask again"):
        await _erase_events(bus, turn_id)


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
    entries = bus.subjects.stage(EpisodeRecorded.subject, member.turn_id)
    erased = [seq async for seq in find_sequences(bus, EPISODES, entries)]
    await bus.publish(EpisodeForgotten(envelope=envelope, episode_id=member.episode_id, erased=tuple(erased)))
    await failpoints.pass_window("forget.published")
    with translate_errors("the record was not erased", advice="ask again"):
        await _overwrite(bus, EPISODES, bus.subjects.stage(EpisodeRecorded.subject, member.turn_id))
        await _erase_events(bus, member.turn_id)
    await failpoints.pass_window("forget.erased")


async def erase_copies(bus: Bus, episode_ids: Collection[str], *, tenant: str) -> None:
    """Delete what turns and dead letters hold of a tenant's forgotten episodes.

    A turn that runs with recalled text of them is waited for, at most :data:`RUNNING_SECONDS`, and then cancelled. A
    turn of another tenant recalls none of them, whatever stands in it.

    Raises:
        Unavailable: the broker is away; calling it again continues.
    """
    if not episode_ids:
        return
    wanted = [msgspec.json.encode(name) for name in episode_ids]
    with translate_errors("copies of the record were not erased", advice="ask again"):
        holders = await _find_holders(bus, wanted, tenant)
        with anyio.move_on_after(RUNNING_SECONDS):
            while any(envelope is not None for envelope in holders.values()):
                await anyio.sleep(POLL_SECONDS)
                holders = await _find_holders(bus, wanted, tenant)
        for turn_id, running in holders.items():
            if running is not None:
                reason = "what this turn recalled was forgotten"
                await bus.publish(TurnCancelled(envelope=running.next(TurnCancelled.subject), reason=reason))
            await _erase_events(bus, turn_id)
        async with aclosing(read_letters(bus)) as letters:
            async for entry in letters:
                body = await _read_body(bus, entry.letter)
                if any(name in body for name in wanted):
                    await delete_message(bus, DEAD, entry.seq)
                    if entry.letter.payload_sha256:
                        await objects.delete(bus, entry.letter.payload_sha256)


async def _find_holders(bus: Bus, wanted: Collection[bytes], tenant: str) -> dict[str, Envelope | None]:
    """The tenant's turns whose events hold one of the wanted names: the envelope of one that still runs, None of one
    that has ended or that nobody can read."""
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
                    envelope = decode_envelope(message.data)
                    if envelope is None or envelope.tenant == tenant:
                        holders[turn_id] = envelope
    return {turn_id: None if turn_id in ended else envelope for turn_id, envelope in holders.items()}


async def _read_body(bus: Bus, letter: DeadLetter) -> bytes:
    try:
        return await read_payload(bus, letter)
    except InvalidInput:
        return b""  # a body that was too large for the letter, and that is not stored any more


async def expire(bus: Bus, *, age: float, room: int = ANSWER_MAX_BYTES // 2) -> int:
    """Overwrite what is older than ``age`` seconds and, if it was to be recorded, is in the record; return the number.

    When the stream is fuller than ``room`` bytes, younger messages go, too, oldest first. A maximum age on the stream
    would not do: messages dropped for their age stay readable in the files for a while, recorded or not.

    Raises:
        Unavailable: the broker is away.
    """
    before, count = time.time() - age, 0
    with translate_errors("old answers were not removed"):
        settled = await _read_settled(bus)
        excess = (await measure_stream(bus, ANSWERS)).bytes - room
        async with aclosing(read_stream(bus, ANSWERS, bus.subjects.answers, until=settled.until)) as answers:
            async for answer in answers:
                if answer.stored_at.timestamp() > before and excess <= 0:
                    break
                if answer.subject.rpartition(".")[2] in settled.waiting:
                    continue
                await delete_message(bus, ANSWERS, answer.seq)
                excess -= len(answer.data)
                count += 1
    return count


@dataclass(frozen=True)
class _Settled:
    """What of ANSWERS the record has: the messages up to the sequence ``until``, but those of the turns ``waiting``."""

    until: int
    waiting: Collection[str]


async def _read_settled(bus: Bus) -> _Settled:
    """How far both consumers that record answers are. An answer may have been taken long after it was ready."""
    last = (await measure_stream(bus, ANSWERS)).last_seq
    floors = {}
    for name in (RECORD, TAKEN):
        consumer = await read_consumer(bus, ANSWERS, name)
        floors[name] = 0 if consumer is None else consumer.acknowledged if consumer.lag else last
    taken = bus.subjects.stage(AnswerTaken.subject)
    async with aclosing(read_stream(bus, ANSWERS, [taken], after=floors[TAKEN])) as messages:
        waiting = {message.subject.rpartition(".")[2] async for message in messages}
    return _Settled(floors[RECORD], waiting)


async def _erase_events(bus: Bus, turn_id: str) -> None:
    """Delete a turn's events; of its end only an answer has text."""
    await _overwrite(bus, ANSWERS, bus.subjects.stage(AnswerReady.subject, turn_id))
    await purge(bus, TURNS, subject=bus.subjects.turn(turn_id))


async def _overwrite(bus: Bus, stream: str, subject: str) -> None:
    while (message := await read_last(bus, stream, subject)) is not None:
        await delete_message(bus, stream, message.seq)
