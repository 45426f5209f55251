"""Makes an episode of an answer, from the event alone, so that a redelivered event makes the same episode."""

import uuid

from agents.memory.concepts import concepts, salience
from schemas.episode import Episode
from schemas.events import AnswerReady, EpisodeRecorded


def episode_id(*, tenant: str, turn_id: str) -> str:
    """The id of a turn's episode. The tenant is part of it, because the publisher of a turn chooses its turn id."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"episode\n{tenant}\n{turn_id}"))


def build_episode(event: AnswerReady) -> Episode:
    """The immutable record of an answered turn; ``created_at`` is when the answer was ready."""
    envelope, query, route, inference = event.envelope, event.query, event.route, event.inference
    text = f"{query.text}\n{event.text}"
    about = concepts(text)
    return Episode(
        episode_id=episode_id(tenant=envelope.tenant, turn_id=envelope.turn_id),
        turn_id=envelope.turn_id,
        session_id=envelope.session_id,
        tenant=envelope.tenant,
        created_at=envelope.created_at,
        question=query.text,
        answer=event.text,
        model=inference.model,
        model_digest=inference.model_digest,
        level=route.plan.level,
        intent=route.intent,
        domains=route.domains,
        adapters=route.adapters,
        candidates=inference.candidates,
        sampling=query.sampling,
        messages=query.messages,
        plan=route.plan,
        recalled_ids=tuple(hit.episode_id for hit in event.recall.hits),
        question_only_ids=tuple(hit.episode_id for hit in event.recall.hits if not hit.answer),
        superseded_by={hit.episode_id: hit.superseded_by for hit in event.recall.hits if hit.superseded_by},
        history_ids=event.recall.history,
        advisories=route.advisories,
        votes=event.negotiation.votes,
        outcome=event.negotiation.outcome,
        dissent=event.negotiation.dissent,
        arbitration=event.negotiation.arbitration,
        bias=event.bias,
        usage=event.usage,
        timings=event.timings,
        embedding=route.embedding,
        concepts=about,
        saillance_score=salience(text, about),
    )


def build_record(event: AnswerReady) -> EpisodeRecorded:
    """The event that stores the episode."""
    return EpisodeRecorded(envelope=event.envelope.next("memory-write"), episode=build_episode(event))


def store_key(tenant: str, kind: str, name: str) -> str:
    """The UUID under which the stores keep a session, episode or concept.

    The tenant is part of it, so that no tenant can overwrite another's entry by choosing its name. ``kind`` is
    "session", "episode" or "concept".
    """
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{tenant}\n{kind}\n{name}"))
