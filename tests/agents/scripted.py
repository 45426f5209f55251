"""Stages beside a scripted worker, so that each of their paths can be forced. The real model answers in tests/e2e."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import anyio
import msgspec
import numpy as np

from bus import metrics
from bus.agent import Agent
from bus.connection import Bus, LiveMessage
from bus.consumers import ConsumerDeclaration, declare_consumer
from bus.testing import JobScript, Scores, ScriptedWorker, run_agents
from bus.topology import TURNS
from schemas.chat import Message, Sampling, Usage
from schemas.codec import decode, encode
from schemas.embedder import CompareReply, CompareRequest
from schemas.envelope import new_turn
from schemas.events import Event, InferDone
from schemas.findings import AdapterUse, Candidate, DomainScore, Inference, Plan, Query, Recall, Route
from schemas.jobs import Job

FULL = Plan(level="full", candidates=2, dissent=True, negotiate=True, antibias=True, live_tokens=False)
BIG = 10_000_000_000
"""Number of weights of a model that votes and objects."""


def user_text(job: Job) -> str:
    """The user message of a job."""
    return job.messages[-1].content


def ballot_answer(job: Job) -> str:
    """The message with the answer, or the two answers, that a ballot is about."""
    return job.messages[-2].content if len(job.messages) > 1 else ""


def even_scores(job: Job) -> Scores:
    """The same score for every choice, as a model without a habit gives to a content-free prompt."""
    return dict.fromkeys(job.choices, -1.0)


def is_blank(job: Job) -> bool:
    """Whether the job is the content-free prompt that measures the model's habit."""
    return ballot_answer(job) == "N/A"


@contextlib.asynccontextmanager
async def scripted_worker(bus: Bus, script: JobScript, *stages: Agent) -> AsyncIterator[ScriptedWorker]:
    """A scripted worker and ``stages`` serving on ``bus``."""
    worker = ScriptedWorker(on_job=script)
    async with run_agents(bus, worker, *stages):
        yield worker


async def declare_dissenter(bus: Bus) -> None:
    """Let it look as if a catfish were there, which a test publishes for."""
    declaration = ConsumerDeclaration(
        name="catfish",
        filters=[bus.subjects.stage(InferDone.subject)],
        description="",
        ack_wait=4.0,
        window=64,
        after=0,
        metadata={},
    )
    await declare_consumer(bus, TURNS, declaration, removal="")


async def serve_compare(
    bus: Bus, vectors: Mapping[str, tuple[float, ...]], *, delays: Sequence[float] = ()
) -> list[CompareRequest]:
    """Answer the compare service from unit ``vectors``, by how a text ends, until the connection ends.

    The first replies take ``delays`` seconds. Returns the requests that came so far.
    """
    requests: list[CompareRequest] = []

    def vector(text: str) -> tuple[float, ...]:
        return next(vectors[ending] for ending in vectors if text.endswith(ending))

    async def answer(message: LiveMessage) -> None:
        request = decode(CompareRequest, message.data)
        requests.append(request)
        await anyio.sleep(dict(enumerate(delays, 1)).get(len(requests), 0.0))
        rows = np.array([vector(text) for text in request.texts])
        reply = CompareReply(cosines=tuple(map(tuple, (rows @ rows.T).tolist())), compute=0.002)
        await bus.client.publish(message.reply, encode(reply))

    await bus.listen(bus.subjects.service("compare"), answer)
    return requests


async def wait_for_first(bus: Bus, turn_id: str, *kinds: type[Event]) -> Event:
    """The first of ``kinds`` that the turn's story holds."""
    with anyio.fail_after(20):
        while True:
            for kind in kinds:
                if (event := await bus.last(kind, turn_id)) is not None:
                    return event
            await anyio.sleep(0.02)


def infer_done(
    *texts: str,
    plan: Plan = FULL,
    question: str = "At how many degrees Celsius does water boil at sea level?",
    adapters: tuple[str, ...] = (),
    domains: tuple[str, ...] = (),
    logprobs: tuple[float, ...] = (),
    timeout: float = 30.0,
    loaded: bool = True,
    by: tuple[str, ...] = (),
    parameters: int = BIG,
    sha256: str = "ab",
    cut: bool = False,
) -> InferDone:
    """A turn whose candidates are ``texts``.

    ``loaded`` says whether the worker holds the routed adapters; ``by`` names each candidate's member, else all of the
    adapters took part in every candidate. ``cut``: the turn's time was over before they had ended.
    """
    scores = logprobs or tuple(-0.5 for _ in texts)
    uses = tuple(AdapterUse(name=name, weight=0.5, sha256=sha256) for name in adapters)
    no_uses: list[tuple[AdapterUse, ...]] = [()] * len(texts)
    candidates = tuple(
        Candidate(text=text, logprob=score, adapters=candidate_uses, usage=Usage(prompt_tokens=7, completion_tokens=3))
        for text, score, candidate_uses in zip(
            texts, scores, _uses_by_candidate(uses, by, len(texts)) if loaded else no_uses, strict=True
        )
    )
    usage = Usage(prompt_tokens=7 * len(texts), completion_tokens=3 * len(texts))
    return InferDone(
        envelope=new_turn(tenant="test", timeout=timeout),
        query=Query(model="micro-kiki", messages=(Message(role="user", content=question),), sampling=Sampling(seed=3)),
        route=Route(
            domains=tuple(DomainScore(name=name, score=0.9) for name in domains),
            adapters=uses,
            intent="question",
            plan=plan,
        ),
        recall=Recall(),
        inference=Inference(
            candidates=candidates, usage=usage, model="test", model_digest="d", parameters=parameters, cut=cut
        ),
    )


def _uses_by_candidate(uses: tuple[AdapterUse, ...], by: tuple[str, ...], count: int) -> list[tuple[AdapterUse, ...]]:
    if not by:
        return [uses] * count
    return [tuple(use for use in uses if use.name == name) for name in by]


def counter_value(name: str, **labels: str) -> float:
    """A counter of this process."""
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


def degraded_count(path: str) -> float:
    """How often a degraded path was taken in this process."""
    return counter_value("kiki_degraded_total", path=path)


def plan_with(**changes: Any) -> Plan:
    """:data:`FULL` with ``changes``."""
    return msgspec.structs.replace(FULL, **changes)
