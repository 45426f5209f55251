"""Episodes, turns and unit vectors for the memory's tests."""

import random
import time
from collections.abc import Sequence

from agents.memory.episodes import episode_id, owner_key
from schemas.chat import Message, Sampling, Usage
from schemas.envelope import Envelope, new_turn
from schemas.episode import Episode
from schemas.events import AnswerReady, QueryRouted
from schemas.findings import (
    AdapterUse,
    Arbitration,
    BiasReport,
    Candidate,
    Dissent,
    DomainScore,
    Inference,
    Negotiation,
    Plan,
    Query,
    Recall,
    RecalledEpisode,
    Route,
    StageTiming,
    Vote,
)

SIZE = 64
"""Small vectors: the stores do not care."""

USER = "mia"
"""The user of each tenant, unless a test names another."""


def owner(tenant: str = "ann", user: str = USER, session: str = "") -> str:
    """The key of whose memory it is."""
    return owner_key(tenant, user, session)


def unit(seed: int, size: int = SIZE) -> tuple[float, ...]:
    """A random unit vector; two of them are nearly orthogonal."""
    generator = random.Random(seed)
    raw = [generator.gauss(0.0, 1.0) for _ in range(size)]
    norm = sum(value * value for value in raw) ** 0.5
    return tuple(value / norm for value in raw)


def near(seed: int) -> tuple[float, ...]:
    """A unit vector whose cosine with that of :func:`unit` is about 0.7: another question of the same thing."""
    blend = [left + right for left, right in zip(unit(seed), unit(seed + 1000), strict=True)]
    norm = sum(value * value for value in blend) ** 0.5
    return tuple(value / norm for value in blend)


def episode(
    turn: str,
    *,
    tenant: str = "ann",
    user: str = USER,
    session: str = "s1",
    question: str = "",
    answer: str = "yes",
    at: float = 1000.0,
    vector: Sequence[float] | None = None,
) -> Episode:
    """A small episode; without a vector it has none."""
    return Episode(
        episode_id=episode_id(tenant=tenant, turn_id=turn),
        turn_id=turn,
        session_id=session,
        tenant=tenant,
        user=user,
        created_at=at,
        question=question or f"question of {turn}",
        answer=answer,
        model="small",
        model_digest="d1",
        level="fast",
        intent="chat",
        domains=(),
        adapters=(),
        candidates=(),
        sampling=Sampling(),
        embedding=tuple(vector or ()),
    )


def turn(
    *, tenant: str = "ann", user: str = USER, session: str = "s1", timeout: float = 20.0, key: str | None = None
) -> Envelope:
    """A fresh turn."""
    return new_turn(tenant=tenant, user=user, session_id=session, timeout=timeout, key=key)


def query(text: str) -> Query:
    """One user message."""
    return Query(model="micro-kiki", messages=(Message(role="user", content=text),), sampling=Sampling(seed=7))


def route(vector: Sequence[float], *, recall: bool = True, record: bool = True) -> Route:
    """A plan that recalls and records."""
    return Route(
        domains=(DomainScore(name="cpp", score=0.9),),
        adapters=(AdapterUse(name="cpp", weight=0.8, sha256="ab"),),
        intent="chat",
        plan=Plan(level="full", recall=recall, record=record),
        embedding=tuple(vector),
    )


def query_routed(
    envelope: Envelope, vector: Sequence[float], *, text: str = "what?", recall: bool = True
) -> QueryRouted:
    """The event that the router publishes."""
    return QueryRouted(
        envelope=envelope.next("router"),
        query=query(text),
        route=route(vector, recall=recall),
        timings=(StageTiming(stage="router", started_at=time.time(), finished_at=time.time()),),
    )


def answer_ready(
    envelope: Envelope,
    vector: Sequence[float] = (),
    *,
    text: str = "what?",
    answer: str = "that.",
    record: bool = True,
) -> AnswerReady:
    """The answer is ready, with something from every stage."""
    candidate = Candidate(text=answer, logprob=-0.2)
    hit = RecalledEpisode(
        episode_id="e0", turn_id="t0", question="q", answer="a", score=0.9, reasons=("dense 0.9",), created_at=1.0
    )
    return AnswerReady(
        envelope=envelope.next("antibias"),
        query=query(text),
        route=route(vector, record=record),
        recall=Recall(hits=(hit,)),
        inference=Inference(candidates=(candidate,), usage=Usage(prompt_tokens=3), model="small", model_digest="d1"),
        negotiation=Negotiation(
            chosen=0,
            text=answer,
            outcome="consensus",
            votes=(Vote(member="base", candidate=0, choice="KEEP"),),
            dissent=Dissent(engaged=True, reason="complex", text="but", tone="mild"),
            arbitration=Arbitration(first=0, second=1, lean=0.4, swapped=0.2),
        ),
        bias=BiasReport(checked=True, reason="clean"),
        text=answer,
        finish_reason="stop",
        usage=Usage(prompt_tokens=3, completion_tokens=5),
        timings=(StageTiming(stage="antibias", started_at=1.0, finished_at=2.0),),
    )
