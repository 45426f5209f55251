"""A scripted worker: it answers jobs on the real JOBS stream, so that a stage's every path can be forced.

The real model answers in tests/e2e.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import anyio
import msgspec
from nats.aio.msg import Msg

from bus import agent as agents
from bus import metrics
from bus.connection import Bus
from bus.handler import Consumer, Delivery, Handler
from bus.topology import JOBS
from schemas.chat import Message, Sampling, Usage
from schemas.codec import decode, encode
from schemas.envelope import new_turn
from schemas.errors import KikiError
from schemas.events import Event, InferDone
from schemas.jobs import Job, JobResult
from schemas.services import EmbedReply, EmbedRequest
from schemas.stages import AdapterUse, Candidate, DomainScore, Inference, Plan, Query, Recall, Route

FULL = Plan(level="full", candidates=2, dissent=True, negotiate=True, antibias=True, live_tokens=False)
JOB_TOKENS = 10
"""Prompt tokens that the scripted worker reports for a job."""

Scores = dict[str, float]
Script = Callable[[Job], Scores | str]


def said(job: Job) -> str:
    """The user message of a job."""
    return job.messages[-1].content


def evenly(job: Job) -> Scores:
    """The same score for every choice: what a model without habits says of a content-free prompt."""
    return dict.fromkeys(job.choices, -1.0)


def is_blank(job: Job) -> bool:
    """Whether the job measures the habit of the labels."""
    return "Answer:\nN/A" in said(job)


@dataclass
class Worker:
    """Answers with what ``script`` says: scores, or a text; a raised KikiError is the job's failure."""

    bus: Bus
    script: Script
    jobs: list[Job] = field(default_factory=list)

    async def handle(self, job: Job, delivery: Delivery) -> None:
        """One job."""
        self.jobs.append(job)
        try:
            found = self.script(job)
        except KikiError as error:
            result = JobResult(job_id=job.job_id, code=error.code, message=error.message)
        else:
            result = self._result(job, found)
        await self.bus.answer(job, result)

    def _result(self, job: Job, found: Scores | str) -> JobResult:
        if isinstance(found, dict):
            return JobResult(job_id=job.job_id, logprobs=found, prompt_tokens=JOB_TOKENS, compute=0.001)
        candidate = Candidate(text=found, usage=Usage(prompt_tokens=JOB_TOKENS, completion_tokens=5))
        return JobResult(job_id=job.job_id, candidates=(candidate,), prompt_tokens=JOB_TOKENS, compute=0.001)


@contextlib.asynccontextmanager
async def at_work(bus: Bus, script: Script, *stages: agents.Agent) -> AsyncIterator[Worker]:
    """A scripted worker and ``stages`` serving on ``bus``."""
    worker = Worker(bus, script)
    handler = Handler(
        stage="worker", event=Job, handle=worker.handle, stream=JOBS, filters=tuple(bus.subjects.jobs), concurrency=4
    )
    consumer = Consumer(bus, handler)
    await consumer.declare()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.run)
        for stage in stages:
            await tasks.start(agents.run, stage, bus)
        yield worker
        tasks.cancel_scope.cancel()


async def embedding(bus: Bus, vectors: dict[str, tuple[float, ...]]) -> None:
    """Answer the embed service with ``vectors`` until the connection ends."""

    async def answer(message: Msg) -> None:
        request = decode(EmbedRequest, message.data)
        reply = EmbedReply(vectors=tuple(vectors[text] for text in request.texts), compute=0.002)
        await bus.client.publish(message.reply, encode(reply))

    await bus.listen(bus.subjects.service("embed"), answer)


async def first(bus: Bus, turn_id: str, *kinds: type[Event]) -> Event:
    """The first of ``kinds`` that the turn's story holds."""
    with anyio.fail_after(20):
        while True:
            for kind in kinds:
                if (event := await bus.last(kind, turn_id)) is not None:
                    return event
            await anyio.sleep(0.02)


def inferred(
    *texts: str,
    plan: Plan = FULL,
    question: str = "What is the boiling point of water at sea level?",
    adapters: tuple[str, ...] = (),
    domains: tuple[str, ...] = (),
    logprobs: tuple[float, ...] = (),
    timeout: float = 30.0,
    loaded: bool = True,
) -> InferDone:
    """A turn whose candidates are ``texts``; ``loaded`` says whether the worker holds the routed adapters."""
    scores = logprobs or tuple(-0.5 for _ in texts)
    uses = tuple(AdapterUse(name=name, weight=0.5, sha256="ab") for name in adapters)
    candidates = tuple(
        Candidate(
            text=text, logprob=score, adapters=uses if loaded else (), usage=Usage(prompt_tokens=7, completion_tokens=3)
        )
        for text, score in zip(texts, scores, strict=True)
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
        inference=Inference(candidates=candidates, usage=usage, model="test", model_digest="d"),
    )


def degraded(path: str) -> float:
    """How often a degraded path was taken in this process."""
    return metrics.REGISTRY.get_sample_value("kiki_degraded_total", {"path": path}) or 0.0


def planned(**changes: bool) -> Plan:
    """:data:`FULL` with ``changes``."""
    return msgspec.structs.replace(FULL, **changes)
