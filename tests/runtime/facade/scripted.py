"""Scripted agents behind a real broker, and the facade in front of it."""

import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec

from bus.connection import Bus, BusSettings, LiveMessage, connect
from runtime.catalogue import load_catalogue
from runtime.facade import FacadeSettings, serve
from schemas.chat import ToolCall, Usage
from schemas.codec import decode
from schemas.errors import KikiError
from schemas.events import (
    AnswerReady,
    InferBegun,
    InferToken,
    QueryReceived,
    QueryRouted,
    RecallDone,
    TurnCancelled,
    TurnFailed,
)
from schemas.findings import (
    AdapterUse,
    BiasReport,
    Candidate,
    DomainScore,
    Echo,
    FinishReason,
    Inference,
    Level,
    Negotiation,
    Plan,
    Query,
    Recall,
    Route,
    StageTiming,
    TokenLogprob,
)

MODELS = load_catalogue()
OWN, SPENT = Usage(prompt_tokens=7, completion_tokens=5), Usage(prompt_tokens=70, completion_tokens=50)
LEVELS: dict[str, Level] = {name: alias.level for name, alias in MODELS.items()}


@dataclass
class Script:
    """What the scripted agents do with the next turns.

    Attributes:
        tokens: live tokens, published before the answer when the plan has them.
        candidates: texts of the candidates; ``text`` alone when None.
        answers: by the question a text instead of ``text``, of one live token, or the error with which the turn fails.
        fail: the turn fails with this error, before the worker has accepted it.
        fail_late: the turn fails with this error after its live tokens.
        silent: the turn is not answered.
        before_answer: the answer waits for this event.
        before_begin: the worker accepts the turn after this event; None: at once.
        usage: the tokens of each candidate, and ``spent`` those of the whole turn.
        adapters: the adapters that take part.
        echo: what was continued, where the query asks for it; its text when None.
        finish_reason: why the answer ended; None: as its calls say.
        queries: the queries so far; the first one sets ``query_arrived``.
        cancellations: the cancellations so far; the first one sets ``cancel_arrived``.
    """

    tokens: tuple[InferToken | str, ...] = ("The capital ", "is Paris.")
    text: str = "The capital is Paris."
    candidates: tuple[str, ...] | None = None
    answers: dict[str, str | KikiError] = field(default_factory=dict)
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    fail: KikiError | None = None
    fail_late: KikiError | None = None
    silent: bool = False
    before_answer: anyio.Event | None = None
    before_begin: anyio.Event | None = None
    usage: Usage = OWN
    spent: Usage = SPENT
    adapters: tuple[AdapterUse, ...] = (AdapterUse(name="python", weight=1.0),)
    logprobs: tuple[TokenLogprob, ...] = ()
    echo: Echo | None = None
    finish_reason: FinishReason | None = None
    is_cut: bool = False
    queries: list[QueryReceived] = field(default_factory=list)
    cancellations: list[TurnCancelled] = field(default_factory=list)
    cancel_arrived: anyio.Event = field(default_factory=anyio.Event)
    query_arrived: anyio.Event = field(default_factory=anyio.Event)


class ScriptedAgents:
    """Plays all agents: publishes a turn's events in their order, as the script says."""

    def __init__(self, bus: Bus, script: Script, tasks: anyio.abc.TaskGroup) -> None:
        self.bus = bus
        self.script = script
        self._tasks = tasks

    async def listen(self) -> None:
        await self.bus.listen(self.bus.subjects.stage(QueryReceived.subject), self._accept_query)
        await self.bus.listen(self.bus.subjects.stage(TurnCancelled.subject), self._accept_cancellation)
        await self.bus.flush()

    async def _accept_cancellation(self, message: LiveMessage) -> None:
        self.script.cancellations.append(decode(TurnCancelled, message.data))
        self.script.cancel_arrived.set()

    async def _accept_query(self, message: LiveMessage) -> None:
        event = decode(QueryReceived, message.data)
        self.script.queries.append(event)
        self.script.query_arrived.set()
        self._tasks.start_soon(self._play_turn, event)

    async def _play_turn(self, event: QueryReceived) -> None:
        script = self.script
        answer = script.answers.get(event.query.text)
        if isinstance(answer, KikiError):
            script = dataclasses.replace(script, fail=answer)
        elif answer is not None:
            script = dataclasses.replace(script, text=answer, tokens=(answer,))
        if script.silent:
            return
        if script.fail is not None:
            await self.bus.publish(failure_event(event, script.fail))
            return
        routing = routed_event(event)
        await self.bus.publish(routing)
        recall = recall_event(routing)
        await self.bus.publish(recall)
        if script.before_begin is not None:
            await script.before_begin.wait()
        if event.query.stream:
            await self.bus.signal(
                InferBegun(
                    turn_id=event.envelope.turn_id,
                    prompt_tokens=script.usage.prompt_tokens,
                    adapters=script.adapters,
                    model_digest="abcdef0123456789",
                )
            )
        if routing.route.plan.live_tokens:
            for index, token in enumerate(script.tokens):
                if isinstance(token, str):
                    token = InferToken(turn_id="", index=index, text=token)
                await self.bus.signal(msgspec.structs.replace(token, turn_id=event.envelope.turn_id))
        if script.before_answer is not None:
            await script.before_answer.wait()
        if script.fail_late is not None:
            await self.bus.publish(failure_event(event, script.fail_late))
            return
        await self.bus.publish(answer_event(recall, script))


def timing(stage: str) -> StageTiming:
    return StageTiming(stage=stage, started_at=100.0, finished_at=100.041, compute=0.03)


def routed_event(event: QueryReceived) -> QueryRouted:
    level = event.query.level or LEVELS[event.query.model]
    plan = Plan(level=level, candidates=event.query.candidates or 1, live_tokens=level != "full")
    route = Route(
        domains=(DomainScore(name="python", score=0.75),),
        adapters=(AdapterUse(name="python", weight=1.0),),
        intent="chat",
        plan=plan,
        embedding=(1.0, 0.0),
    )
    return QueryRouted(
        envelope=event.envelope.next("router"), query=event.query, route=route, timings=(timing("router"),)
    )


def recall_event(event: QueryRouted) -> RecallDone:
    return RecallDone(
        envelope=event.envelope.next("memory"),
        query=event.query,
        route=event.route,
        recall=Recall(),
        timings=(*event.timings, timing("memory")),
    )


def answer_event(event: RecallDone, script: Script) -> AnswerReady:
    texts = script.candidates or (script.text,)
    return AnswerReady(
        envelope=event.envelope.next("antibias"),
        query=event.query,
        route=event.route,
        recall=event.recall,
        inference=Inference(
            candidates=tuple(
                Candidate(
                    text=text,
                    reasoning=script.reasoning,
                    tool_calls=script.tool_calls,
                    usage=script.usage,
                    adapters=script.adapters,
                    tokens=script.logprobs,
                    finish_reason=script.finish_reason or "stop",
                )
                for text in texts
            ),
            usage=script.spent,
            model="small",
            model_digest="abcdef0123456789",
            prompt_tokens=script.usage.prompt_tokens,
            echo=find_echo(event.query, script),
            cut=script.is_cut,
        ),
        negotiation=Negotiation(chosen=0, text=script.text, outcome="passed"),
        bias=BiasReport(checked=False),
        text=script.text,
        finish_reason=script.finish_reason or ("tool_calls" if script.tool_calls else "stop"),
        usage=script.spent,
        timings=(*event.timings, timing("inference")),
    )


def find_echo(query: Query, script: Script) -> Echo | None:
    """What the worker says that it continued, if the query asks for it."""
    if query.continuation is None or not query.continuation.echo:
        return None
    return script.echo or Echo(text=query.text)


def failure_event(event: QueryReceived, error: KikiError) -> TurnFailed:
    return TurnFailed(
        envelope=event.envelope.next("inference.failed"),
        stage="inference",
        code=error.code,
        message=error.message,
        retryable=error.retryable,
        param=error.param,
    )


@asynccontextmanager
async def run_scripted_agents(url: str, script: Script) -> AsyncIterator[ScriptedAgents]:
    """Scripted agents on a connection of their own."""
    async with connect(BusSettings(url=url), name="agents") as bus, anyio.create_task_group() as tasks:
        agents = ScriptedAgents(bus, script, tasks)
        await agents.listen()
        yield agents
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def serve_facade(bus: Bus, settings: FacadeSettings) -> AsyncIterator[str]:
    """The facade's address while it serves."""
    async with anyio.create_task_group() as tasks:
        port: int = await tasks.start(serve, bus, settings, MODELS)
        yield f"http://127.0.0.1:{port}"
        tasks.cancel_scope.cancel()


def chat_body(**fields: Any) -> dict[str, Any]:
    """A chat request's body."""
    return {
        "model": "micro-kiki-base",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    } | fields


async def wait_until(holds: Callable[[], bool]) -> None:
    """Wait until something holds; the test's own time limit bounds it."""
    while not holds():
        await anyio.sleep(0.01)
