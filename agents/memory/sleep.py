"""Sleep: related old episodes get a summary, which is an episode of the record like any other; nothing is dropped.

All state is in the streams: which episodes are old, what each durable consumer has acknowledged, and which summaries
exist. The plan depends only on the episodes recorded before a given time, and a summary's id only on its parts. So a
sleep that was killed continues where it stopped, and sleeping again changes nothing. Rebuilding the stores needs no
model, because summaries are in the record.
"""

import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from contextlib import aclosing
from datetime import datetime
from typing import NamedTuple

import anyio
import numpy as np
import structlog
from msgspec import Struct, field

from agents.memory.clusters import OldEpisode, plan_summaries
from agents.memory.context import unit
from agents.memory.embedding import is_stale
from agents.memory.episodes import episode_id
from agents.memory.settings import MemorySettings
from agents.memory.text.concepts import concepts, salience
from bus import failpoints, metrics
from bus.connection import Bus
from bus.errors import translate_errors
from bus.record import find_acknowledged_floor, find_entry
from bus.stream import measure_stream, read_stream
from bus.topology import EPISODES
from schemas.chat import Message, Sampling
from schemas.codec import decode
from schemas.envelope import Envelope, new_turn
from schemas.episode import Episode
from schemas.errors import InvalidEvent, KikiError, StageFailed, Unavailable
from schemas.events import EpisodeForgotten, EpisodeRecorded
from schemas.findings import Advisory
from schemas.memory import Merged, SleepReply, SleepRequest

SLEEP = "sleep"
DAY = 86400.0

_INSTRUCTION = (
    "You keep a memory. Sum up the notes in a few plain sentences. Keep every name, number, date and decision; add "
    "nothing. Where notes contradict each other, the later one holds."
)

_log = structlog.get_logger("memory")


class TenantUser(NamedTuple):
    """The user whose episodes are summed up."""

    tenant: str
    user: str


class OwnedEpisodes(Struct):
    """One user's old episodes by id, and the ids of those that an earlier sleep has summed up."""

    old: dict[str, OldEpisode] = field(default_factory=dict)
    summed: set[str] = field(default_factory=set)


async def sleep(bus: Bus, request: SleepRequest, settings: MemorySettings, *, summary_lock: anyio.Lock) -> SleepReply:
    """Sum up related old episodes, oldest first. Forgetting holds ``summary_lock``, too: nothing forgotten is summed
    up.

    Raises:
        Unavailable: the broker is away; sleeping again continues.
    """
    before = request.before if request.before is not None else midnight(time.time() - settings.sleep_age)
    with translate_errors("the record cannot be read"):
        last = (await measure_stream(bus, EPISODES)).last_seq
        floor, slowest_consumer = await find_acknowledged_floor(bus, last)
    owners, held_count = await _read_episodes(bus, request, before=before, floor=floor, settings=settings)
    summaries: list[Merged] = []
    known_count = left_count = 0
    for owner, owned in sorted(owners.items()):
        for part in plan_summaries(
            (episode for name, episode in owned.old.items() if name not in owned.summed),
            settings=settings,
        ):
            turn_id = summary_turn(owner.tenant, part)
            if await _is_recorded(bus, turn_id):
                known_count += 1
            elif len(summaries) < request.limit and (
                summary := await _sum_up(bus, owner, part, before, settings, summary_lock)
            ):
                summaries.append(summary)
            else:
                left_count += 1
    _log.info(
        "memory slept",
        summaries=len(summaries),
        known=known_count,
        left=left_count,
        held=held_count,
        held_by=slowest_consumer,
    )
    return SleepReply(
        merged=tuple(summaries),
        known=known_count,
        left=left_count,
        held=held_count,
        held_by=slowest_consumer if held_count else "",
        before=before,
    )


def midnight(moment: float) -> float:
    """The last midnight (UTC) at or before ``moment`` (Unix time), so that two sleeps of one day make the same plan."""
    return moment - moment % DAY


def summary_turn(tenant: str, part: Sequence[OldEpisode]) -> str:
    """The turn id of a summary, derived from its tenant and from the episodes that it sums up."""
    names = "\n".join(sorted(episode.episode_id for episode in part))
    return uuid.uuid5(uuid.NAMESPACE_OID, f"summary\n{tenant}\n{names}").hex


async def _read_episodes(
    bus: Bus, request: SleepRequest, *, before: float, floor: int, settings: MemorySettings
) -> tuple[dict[TenantUser, OwnedEpisodes], int]:
    """Read each user's episodes from before ``before``, and count those that a consumer has still to acknowledge.

    Conversations in which nobody was named are left alone: what they hold is recalled in them and nowhere else.
    """
    owners: dict[TenantUser, OwnedEpisodes] = defaultdict(OwnedEpisodes)
    held_count = 0
    async with aclosing(read_stream(bus, EPISODES, [bus.subjects.stage(EpisodeRecorded.subject)])) as messages:
        async for message in messages:
            try:
                episode = decode(EpisodeRecorded, message.data).episode
            except InvalidEvent as error:
                metrics.count_degraded("sleep.unreadable", error.message)
                continue
            if not episode.user or request.tenant not in (None, episode.tenant):
                continue
            if request.user not in (None, episode.user):
                continue
            owned = owners[TenantUser(episode.tenant, episode.user)]
            if episode.summarises:
                # A summary of this same cut-off belongs to the plan that is made now: its parts stay in it, and
                # ``_is_recorded`` finds the summary. Without them the plan would group the rest differently.
                if _cutoff(episode) != before:
                    owned.summed.update(episode.summarises)
            elif _is_old(message.stored_at, before) and _fits(episode, settings):
                if message.seq <= floor:
                    owned.old[episode.episode_id] = _old_episode(episode, message.seq, settings)
                else:
                    held_count += 1
    return owners, held_count


def _fits(episode: Episode, settings: MemorySettings) -> bool:
    """Whether the episode's embedding can be compared with those of the embedder in force."""
    return len(episode.embedding) == settings.vector_size and not is_stale(episode, settings)


def _is_old(stored_at: datetime, before: float) -> bool:
    return stored_at.timestamp() < before


def _cutoff(summary: Episode) -> float | None:
    """The Unix time before which episodes counted as old for the sleep that wrote the summary."""
    return next((advisory.payload.get("before") for advisory in summary.advisories if advisory.source == SLEEP), None)


def _old_episode(episode: Episode, seq: int, settings: MemorySettings) -> OldEpisode:
    texts = [f"{episode.speaker}: {episode.question}" if episode.speaker else episode.question, episode.answer]
    return OldEpisode(
        episode_id=episode.episode_id,
        turn_id=episode.turn_id,
        seq=seq,
        created_at=episode.created_at,
        text="\n".join(text[: settings.hit_characters] for text in texts if text),
        vector=unit(episode.embedding),
    )


async def _is_recorded(bus: Bus, turn_id: str) -> bool:
    """Whether the summary is recorded, or was recorded and is forgotten."""
    return await find_entry(bus, turn_id) is not None


async def _sum_up(
    bus: Bus,
    owner: TenantUser,
    part: Sequence[OldEpisode],
    before: float,
    settings: MemorySettings,
    summary_lock: anyio.Lock,
) -> Merged | None:
    """Ask the model for a summary and record it; a failure is counted, and gives None."""
    try:
        text = await _write_summary(bus, owner, part, settings)
        event = _summary_event(owner, part, text, before, settings.embedder_in_force)
        async with summary_lock:
            for episode in part:
                if isinstance(await find_entry(bus, episode.turn_id), EpisodeForgotten):
                    raise Unavailable("an episode was forgotten while its summary was written.")
            await bus.publish(event)
        await failpoints.pass_window("sleep.recorded")
    except KikiError as error:
        metrics.count_degraded("sleep.failed", error.message)
        return None
    summary = event.episode
    return Merged(
        tenant=owner.tenant, user=owner.user, summary_id=summary.episode_id, text=text, episodes=summary.summarises
    )


async def _write_summary(bus: Bus, owner: TenantUser, part: Sequence[OldEpisode], settings: MemorySettings) -> str:
    days = (time.strftime("%Y-%m-%d", time.gmtime(episode.created_at)) for episode in part)
    notes = "\n\n".join(
        f"Note {number} ({day}):\n{episode.text}"
        for number, (day, episode) in enumerate(zip(days, part, strict=True), 1)
    )
    result = await bus.ask(
        new_turn(tenant=owner.tenant, user=owner.user, timeout=settings.sleep_timeout),
        lane="background",
        messages=(Message(role="system", content=_INSTRUCTION), Message(role="user", content=notes)),
        sampling=Sampling(max_tokens=settings.sleep_tokens, temperature=0.0, seed=0),
    )
    text = result.candidates[0].text.strip() if result.candidates else ""
    if not text:
        raise StageFailed("the model wrote no summary.")
    return text


def _summary_event(
    owner: TenantUser, part: Sequence[OldEpisode], text: str, before: float, embedder: str
) -> EpisodeRecorded:
    """The event that records a summary. Its time is that of the newest of its parts."""
    turn_id, at = summary_turn(owner.tenant, part), part[-1].created_at
    envelope = Envelope(
        event_id=f"{turn_id}:memory-write",
        turn_id=turn_id,
        session_id=f"summary-{turn_id}",
        tenant=owner.tenant,
        user=owner.user,
        created_at=at,
        deadline=at,
    )
    about = concepts(text)
    centre = unit(np.stack([old_episode.vector for old_episode in part]).sum(axis=0))
    episode = Episode(
        episode_id=episode_id(tenant=owner.tenant, turn_id=turn_id),
        turn_id=turn_id,
        session_id=envelope.session_id,
        tenant=owner.tenant,
        user=owner.user,
        created_at=at,
        question=text,
        answer="",
        model=SLEEP,
        model_digest="",
        level="raw",
        intent=SLEEP,
        domains=(),
        adapters=(),
        candidates=(),
        sampling=Sampling(),
        advisories=(Advisory(source=SLEEP, payload={"before": before}),),
        outcome="summed up",
        embedding=tuple(centre.tolist()),
        concepts=about,
        saillance_score=salience(text, about),
        summarises=tuple(old_episode.episode_id for old_episode in part),
        embedder=embedder,
    )
    return EpisodeRecorded(envelope=envelope, episode=episode)
