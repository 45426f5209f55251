"""Real parts for tests, of this repository and of other services: a broker, empty streams, a worker without a model.

async with temporary_broker() as broker, connect_fresh(broker.url) as bus:
    async with run_agents(bus, ScriptedWorker(on_job=lambda job: "Paris."), MyAgent()):
        ...
"""

import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import anyio
import msgspec

from bus import topology
from bus.agent import Agent, Endpoint, run_agent
from bus.broker import EmbeddedBroker, run_broker
from bus.connection import Bus, BusSettings, connect
from bus.errors import BrokerUnavailable
from bus.handler import Delivery, Handler
from bus.stream import read_last
from bus.topology import JOBS
from schemas.chat import Message, Usage
from schemas.codec import decode
from schemas.envelope import Envelope, new_turn
from schemas.errors import KikiError, SetupError
from schemas.events import DissentRaised, Event, InferDone, RecallDone
from schemas.findings import (
    BiasReport,
    Candidate,
    Dissent,
    Inference,
    Negotiation,
    Plan,
    Query,
    Recall,
    Route,
)
from schemas.jobs import Job, JobResult
from schemas.status import StatusReply

E = TypeVar("E", bound=Event)

JOB_TOKENS = 10
"""Prompt tokens that the scripted worker reports for a job."""

Scores = dict[str, float]
JobScript = Callable[[Job], Scores | str]
"""The scores of a job's choices, or a text; a job of several ballots comes as one job for each."""

TurnScript = Callable[[RecallDone], str]
"""The text of a turn's only candidate."""


@asynccontextmanager
async def temporary_broker() -> AsyncIterator[EmbeddedBroker]:
    """A nats-server with JetStream on a free port; its store is removed at the end.

    Raises:
        SetupError: nats-server is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="kiki-nats-") as directory:
        async with run_broker(Path(directory), port=0) as broker:
            yield broker


@asynccontextmanager
async def connect_fresh(
    url: str, *, name: str = "test", guests: Mapping[str, tuple[str, ...]] = MappingProxyType({})
) -> AsyncIterator[Bus]:
    """A bus on empty streams, with ``guests`` after stages (:class:`bus.subjects.Subjects`). Only for a broker of the
    tests: everything that it stores is deleted first."""
    async with connect(BusSettings(url=url, guests=guests), name=name) as bus:
        await _delete_streams(bus, untouched=False)
        try:
            await bus.reconcile()
        except (SetupError, BrokerUnavailable):  # a test declared one otherwise, or its files were still being removed
            await _delete_streams(bus, untouched=True)
            await bus.reconcile()
        yield bus


async def _delete_streams(bus: Bus, *, untouched: bool) -> None:
    """Delete all streams, or leave ours that never had a message or a consumer: most tests use few."""
    declared = {config.name for config in topology.streams(bus.subjects)}
    for info in await bus.js.streams_info():
        if untouched or info.config.name not in declared or info.state.last_seq or info.state.consumer_count:
            await bus.js.delete_stream(str(info.config.name))


@asynccontextmanager
async def run_agents(bus: Bus, *agents: Agent) -> AsyncIterator[None]:
    """Serve the agents in this context; each takes work before the next one starts."""
    async with anyio.create_task_group() as tasks:
        for agent in agents:
            await tasks.start(run_agent, agent, bus)
        yield
        tasks.cancel_scope.cancel()


def sample_event(
    kind: type[E],
    *,
    question: str = "What is the capital of France?",
    answers: Sequence[str] = ("Paris.",),
    envelope: Envelope | None = None,
    **parts: Any,
) -> E:
    """An event of a turn as a stage would publish it: a question, its candidates ``answers``, the first of them chosen.

    ``parts`` are fields of the event that are to be otherwise (``route``, ``recall``, ...).
    """
    usage = Usage(prompt_tokens=10, completion_tokens=5)
    candidates = tuple(Candidate(text=answer, usage=usage) for answer in answers)
    plan = Plan(level="full", candidates=len(answers), dissent=True, negotiate=True, antibias=True, live_tokens=False)
    fields: dict[str, Any] = {
        "envelope": envelope or new_turn(tenant="tests", timeout=20.0),
        "query": Query(model="micro-kiki", messages=(Message(role="user", content=question),)),
        "route": Route(domains=(), adapters=(), intent="base", plan=plan),
        "recall": Recall(),
        "inference": Inference(candidates=candidates, usage=usage, model="scripted"),
        "dissent": Dissent(engaged=kind is DissentRaised, reason="sample", text="Is it?"),
        "negotiation": Negotiation(chosen=0, text=answers[0], outcome="single"),
        "bias": BiasReport(checked=False),
        "text": answers[0],
        "finish_reason": "stop",
        "usage": usage,
        **parts,
    }
    names = {field.name for field in msgspec.structs.fields(kind)}
    if unknown := sorted(set(parts) - names):
        raise ValueError(f"{kind.__name__} has no '{unknown[0]}': it has {', '.join(sorted(names))}.")
    return kind(**{name: value for name, value in fields.items() if name in names})


async def wait_for_event(bus: Bus, kind: type[E], turn_id: str, *, stage: str = "", seconds: float = 10.0) -> E:
    """The turn's last event of that kind once it is stored; of a guest that comes after a stage with its name.

    Raises:
        TimeoutError: none was stored within ``seconds``.
    """
    subject = bus.subjects.stage(bus.subjects.output_of(stage, kind.subject), turn_id)
    with anyio.fail_after(seconds):
        while (message := await read_last(bus, topology.stream_of(kind), subject)) is None:
            await anyio.sleep(0.02)
    return decode(kind, message.data)


class ScriptedWorker:
    """Takes the place of the agent that owns the model: answers turns and jobs of all lanes by scripts.

    A script that raises a :class:`KikiError` makes its job or turn fail with that error. Without ``on_job`` the worker
    does not read jobs at all, and without ``on_turn`` no turns. ``jobs`` are the jobs that came; ``ballots`` are the
    same jobs, split into one job for each ballot.
    """

    name = "inference"

    def __init__(
        self, *, on_job: JobScript | None = None, on_turn: TurnScript | None = None, concurrency: int = 4
    ) -> None:
        self.jobs: list[Job] = []
        self.ballots: list[Job] = []
        self._on_job = on_job
        self._on_turn = on_turn
        self._concurrency = concurrency
        self._bus: Bus

    @asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        """There is nothing to load."""
        self._bus = bus
        yield

    def handlers(self) -> Sequence[Handler[Any]]:
        """Turns at the real worker's place in them, and jobs."""
        handlers: list[Handler[Any]] = []
        if self._on_turn is not None:
            handlers.append(
                Handler(
                    stage="inference",
                    event=RecallDone,
                    handle=self._infer,
                    concurrency=self._concurrency,
                    fair=True,
                    shared=True,
                )
            )
        if self._on_job is not None:
            handlers.append(
                Handler(
                    stage="worker",
                    event=Job,
                    handle=self._answer,
                    stream=JOBS,
                    filters=tuple(self._bus.subjects.jobs),
                    concurrency=self._concurrency,
                    fair=True,
                )
            )
        return handlers

    def endpoints(self) -> Sequence[Endpoint]:
        """None."""
        return ()

    def status(self) -> StatusReply:
        """Always ready."""
        return StatusReply(agent=self.name, ready=True)

    async def _infer(self, event: RecallDone, _: Delivery) -> InferDone:
        assert self._on_turn is not None
        candidate = Candidate(text=self._on_turn(event), usage=Usage(prompt_tokens=1, completion_tokens=1))
        return InferDone(
            envelope=event.envelope.next("inference"),
            query=event.query,
            route=event.route,
            recall=event.recall,
            inference=Inference(candidates=(candidate,), usage=candidate.usage, model="scripted"),
            timings=event.timings,
        )

    async def _answer(self, job: Job, _: Delivery) -> None:
        assert self._on_job is not None
        self.jobs.append(job)
        ballots = [
            msgspec.structs.replace(job, messages=(*job.messages, *ballot), ballots=())
            for ballot in job.ballots or ((),)
        ]
        self.ballots += ballots
        try:
            result = _job_result(job, [self._on_job(ballot) for ballot in ballots])
        except KikiError as error:
            result = JobResult(job_id=job.job_id, code=error.code, message=error.message)
        await self._bus.answer(job, result)


def _job_result(job: Job, outputs: Sequence[Scores | str]) -> JobResult:
    scores = tuple(output for output in outputs if not isinstance(output, str))
    if scores:
        return JobResult(
            job_id=job.job_id, scores=scores, adapters=job.adapters, prompt_tokens=JOB_TOKENS, compute=0.001
        )
    candidate = Candidate(text=str(outputs[0]), usage=Usage(prompt_tokens=JOB_TOKENS, completion_tokens=5))
    return JobResult(
        job_id=job.job_id, candidates=(candidate,), adapters=job.adapters, prompt_tokens=JOB_TOKENS, compute=0.001
    )
