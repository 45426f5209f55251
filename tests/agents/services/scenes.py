"""Recorded episodes, and a services' agent on a bus."""

import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Sequence

from agents.services.agent import ServicesAgent
from agents.services.settings import ServicesSettings
from bus.connection import Bus
from bus.testing import run_agents
from schemas.calls import SERVICES_FETCH, SERVICES_MARK, SERVICES_REGISTER
from schemas.chat import Sampling
from schemas.envelope import new_turn
from schemas.episode import Episode
from schemas.events import EpisodeForgotten, EpisodeRecorded
from schemas.services import FetchRequest, MarkReply, MarkRequest, Record, RegisterRequest, ServiceInfo

QUICK = ServicesSettings(watch_interval=0.05, poll=0.05)


@contextlib.asynccontextmanager
async def run_services(bus: Bus, settings: ServicesSettings = QUICK) -> AsyncIterator[ServicesAgent]:
    """The agent as the runtime serves it."""
    agent = ServicesAgent(settings)
    async with run_agents(bus, agent):
        yield agent


def make_episode_event(
    text: str, *, tenant: str = "ann", user: str = "", session: str = "s1", salience: float = 0.5
) -> EpisodeRecorded:
    """An answered turn's record."""
    envelope = new_turn(tenant=tenant, user=user, session_id=session, timeout=5)
    episode = Episode(
        episode_id=str(uuid.uuid5(uuid.NAMESPACE_OID, envelope.turn_id)),
        turn_id=envelope.turn_id,
        session_id=session,
        tenant=tenant,
        user=user,
        created_at=time.time(),
        question=text,
        answer="yes",
        model="small",
        model_digest="d1",
        level="fast",
        intent="chat",
        domains=(),
        adapters=(),
        candidates=(),
        sampling=Sampling(seed=7),
        saillance_score=salience,
    )
    return EpisodeRecorded(envelope=envelope.next("memory-write"), episode=episode)


async def record(bus: Bus, texts: Sequence[str], **kind: object) -> list[EpisodeRecorded]:
    """Record a turn for each text."""
    events = [make_episode_event(text, **kind) for text in texts]  # type: ignore[arg-type]
    for event in events:
        await bus.publish(event)
    return events


async def forget(bus: Bus, event: EpisodeRecorded) -> None:
    """Forget an episode as the memory does when its session is forgotten."""
    message = await bus.js.get_last_msg("EPISODES", bus.subjects.of(event))
    tombstone = EpisodeForgotten(envelope=event.envelope.next("memory-forget"), episode_id=event.episode.episode_id)
    await bus.publish(tombstone)
    await bus.js.delete_msg("EPISODES", int(message.seq or 0))


async def register(bus: Bus, name: str = "dream", **settings: object) -> ServiceInfo:
    """Register a service under a name."""
    request = RegisterRequest(name=name, **settings)  # type: ignore[arg-type]
    return await bus.request(SERVICES_REGISTER, request, timeout=5)


async def fetch(bus: Bus, name: str = "dream", **settings: object) -> tuple[Record, ...]:
    """Fetch the next records."""
    request = FetchRequest(name=name, **settings)  # type: ignore[arg-type]
    return (await bus.request(SERVICES_FETCH, request, timeout=10)).records


async def mark(bus: Bus, ids: Sequence[int], *, name: str = "dream", de_id: str = "de-1") -> MarkReply:
    """Mark records as consumed."""
    return await bus.request(SERVICES_MARK, MarkRequest(name=name, ids=tuple(ids), de_id=de_id), timeout=10)


def questions_of(records: Sequence[Record]) -> list[str]:
    """The questions of the records; a tombstone has none."""
    return [entry.episode.question if entry.episode else "forgotten" for entry in records]
