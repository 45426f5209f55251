"""Makes an episode of an answer, from the event alone but for a clock that was set back (:func:`build_record`)."""

import uuid
from collections.abc import Sequence

import msgspec

from agents.memory.text.concepts import concepts, salience
from schemas.episode import Episode
from schemas.events import AnswerReady, EpisodeRecorded

TICK = 0.001
"""Seconds by which a turn is later than those that it follows, at least."""


def episode_id(*, tenant: str, turn_id: str) -> str:
    """The id of a turn's episode. The tenant is part of it, because the publisher of a turn chooses its turn id."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"episode\n{tenant}\n{turn_id}"))


def build_episode(event: AnswerReady, *, embedder: str = "", vector: Sequence[float] | None = None) -> Episode:
    """The immutable record of an answered turn; ``created_at`` is when the answer was ready.

    ``vector`` is the question's by the ``embedder``, where that is not the router's.
    """
    envelope, query, route, inference = event.envelope, event.query, event.route, event.inference
    text = f"{query.text}\n{event.text}"
    about = concepts(text)
    return Episode(
        episode_id=episode_id(tenant=envelope.tenant, turn_id=envelope.turn_id),
        turn_id=envelope.turn_id,
        session_id=envelope.session_id,
        tenant=envelope.tenant,
        user=envelope.user,
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
        cut=inference.cut,
        usage=event.usage,
        prompt_tokens=inference.prompt_tokens,
        request=query.request,
        timings=event.timings,
        embedding=route.embedding if vector is None else tuple(vector),
        concepts=about,
        saillance_score=salience(text, about),
        embedder=embedder if vector or route.embedding else "",
    )


def build_record(
    event: AnswerReady, *, embedder: str = "", vector: Sequence[float] | None = None, after: float = 0.0
) -> EpisodeRecorded:
    """The event that stores the episode; see :func:`build_episode`.

    A session is read in the order of its times. So one that is not later than ``after``, the Unix time of the turns
    that the question follows, is made so: the clock was set back between them.
    """
    episode = build_episode(event, embedder=embedder, vector=vector)
    if episode.created_at <= after:
        episode = msgspec.structs.replace(episode, created_at=after + TICK)
    return EpisodeRecorded(envelope=event.envelope.next("memory-write"), episode=episode)


def store_key(tenant: str, kind: str, name: str) -> str:
    """The UUID under which the stores keep an episode, session, concept or owner; ``kind`` says which.

    The tenant is part of it, so that no tenant can overwrite another's entry by choosing its name.
    """
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{tenant}\n{kind}\n{name}"))


def session_key(tenant: str, user: str, session_id: str) -> str:
    """The key of a session, which is a name within tenant and user."""
    return store_key(tenant, "session", f"{session_id}\n{user}")


def owner_key(tenant: str, user: str, session_id: str) -> str:
    """The key of the owner to whom the memory of an episode belongs: the user, or the session where nobody was named.

    Every query of the stores stays within one owner.
    """
    return store_key(tenant, "user", user) if user else store_key(tenant, "conversation", session_id)


def owner_of(episode: Episode) -> str:
    """The key of the owner of an episode."""
    return owner_key(episode.tenant, episode.user, episode.session_id)
