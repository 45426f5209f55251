"""An agent: it handles events and answers requests, and the stock ``nats`` command line can discover it."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import anyio
import anyio.abc
import msgspec
import structlog
from nats.micro.request import Request
from prometheus_client import generate_latest

from bus import metrics
from bus.connection import Bus, LiveMessage
from bus.errors import BROKER_ERRORS
from bus.handler import Consumer, Handler
from bus.handling.endpoint import (
    REQUESTS_AT_ONCE,
    Endpoint,
    add_endpoint,
    encode_reply,
    fault_of,
    is_answerable,
    make_service,
    reply_subject,
    send_refusal,
)
from bus.local_endpoints import Accept
from bus.request import gather, no_answer
from schemas.calls import STATUS
from schemas.codec import encode
from schemas.errors import KikiError, SetupError
from schemas.status import AgentReport, StatusReply

__all__ = ["Agent", "Endpoint", "gather_reports", "run_agent"]

_log = structlog.get_logger("bus")


class Agent(Protocol):
    """What every agent implements. ``open`` acquires models and stores for as long as the agent runs."""

    name: str

    def open(self, bus: Bus) -> contextlib.AbstractAsyncContextManager[None]:
        """Acquire what the agent needs; released when the context ends. Entered again after a BrokerUnavailable."""
        ...

    def handlers(self) -> Sequence[Handler[Any]]:
        """The handlers of the events that the agent reads."""
        ...

    def endpoints(self) -> Sequence[Endpoint]:
        """The requests that the agent answers."""
        ...

    def status(self) -> StatusReply:
        """Whether the agent can take work, with its gauges."""
        ...


class BaseAgent:
    """An agent that acquires nothing, answers no requests and is always ready: a subclass names itself and says what it
    handles."""

    name = ""

    @contextlib.asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        """Acquire nothing; ``bus`` is kept as ``self.bus``."""
        self.bus = bus
        yield

    def handlers(self) -> Sequence[Handler[Any]]:
        """None."""
        return ()

    def endpoints(self) -> Sequence[Endpoint]:
        """None."""
        return ()

    def status(self) -> StatusReply:
        """Ready."""
        return StatusReply(agent=self.name, ready=True)


async def run_agent(
    agent: Agent, bus: Bus, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Serve ``agent`` until cancelled. ``task_status.started()`` is called once the agent takes work.

    While the broker is away or its cluster has no quorum, each step of the start is repeated.

    Raises:
        SetupError: a consumer differs from its declaration, the agent cannot open what it needs, or it does not read
            what the settings say that it comes after.
    """
    wait = bus.outage.wait
    await wait(bus.reconcile)
    async with contextlib.AsyncExitStack() as stack:
        await wait(lambda: stack.enter_async_context(agent.open(bus)))
        handlers = agent.handlers()
        _check_place(agent.name, handlers, bus)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        consumers = [Consumer(bus, handler) for handler in handlers]
        for consumer in consumers:
            await wait(consumer.declare)
        for consumer in consumers:
            tasks.start_soon(consumer.run)
        async with _serve(agent, bus, tasks):
            await wait(bus.flush)  # the broker has the subscriptions before the agent reports that it is ready
            _log.info("agent ready", agent=agent.name)
            task_status.started()
            await anyio.sleep_forever()


def _check_place(name: str, handlers: Sequence[Handler[Any]], bus: Bus) -> None:
    """Refuse a guest that comes after a stage and does not read what that publishes: every turn would wait there."""
    for noun_verb, chain in bus.subjects.guests.items():
        is_read = any((handler.stage, handler.event.subject) == (name, noun_verb) for handler in handlers)
        if name in chain and not is_read:
            raise SetupError(
                f"'{name}' comes after a stage and has no handler of {noun_verb} with the stage '{name}': add one, or "
                "take 'after' out of its settings.",
                param=f"agents.{name}.after",
            )


@contextlib.asynccontextmanager
async def _serve(agent: Agent, bus: Bus, tasks: anyio.abc.TaskGroup) -> AsyncIterator[None]:
    """Answer the agent's endpoints and ``status``, over the broker and to callers of this process."""
    description = (agent.__doc__ or agent.name).strip().splitlines()[0]
    service = make_service(bus.client, bus.subjects, agent=agent.name, description=description)
    with contextlib.suppress(*BROKER_ERRORS):  # of its flush: the subscriptions are made, and run_agent flushes, too
        await service.start()

    async def status(_: None) -> StatusReply:
        return agent.status()

    limiter = anyio.Semaphore(REQUESTS_AT_ONCE, fast_acquire=True)
    with contextlib.ExitStack() as stack:
        for endpoint in (*agent.endpoints(), Endpoint(STATUS.at(agent.name), status)):
            await add_endpoint(service, bus.subjects, endpoint, _message_handler(bus, endpoint, tasks, limiter))
            stack.enter_context(bus.local_endpoints.serve(endpoint.service, _call_handler(endpoint, tasks, limiter)))
        stop_reporting = await bus.listen(bus.subjects.service(STATUS.verb), _status_handler(bus, agent))
        try:
            yield
        finally:
            stack.close()  # first: from here on a request of this process goes over the broker to another instance
            with anyio.CancelScope(shield=True), anyio.move_on_after(1.0), contextlib.suppress(Exception):
                await stop_reporting()
                await service.stop()


def _message_handler(
    bus: Bus, endpoint: Endpoint, tasks: anyio.abc.TaskGroup, limiter: anyio.Semaphore
) -> Callable[[Request], Awaitable[None]]:
    """Answers requests from the broker: nats-py awaits one callback at a time, so each becomes a task of its own.

    ``limiter`` bounds how many requests are answered at the same time.
    """

    async def answer(request: Request) -> None:
        try:
            await _respond(endpoint, request, bus)
        except Exception as error:  # noqa: BLE001 - a reply that cannot be sent must not end the agent
            metrics.count_degraded("service.reply", f"{endpoint.verb}: {error!r}")
        finally:
            limiter.release()

    async def accept(request: Request) -> None:
        await limiter.acquire()
        tasks.start_soon(answer, request)

    return accept


async def _respond(endpoint: Endpoint, request: Request, bus: Bus) -> None:
    """Answer a request, or refuse it. One that nobody could be answered on is not worked on."""
    if not _is_answerable(bus, reply_subject(request), endpoint.verb):
        return
    try:
        with _refusals(endpoint.verb):
            data = encode_reply(endpoint.verb, await endpoint.answer(request.data), bus.max_payload)
        await request.respond(data)
    except KikiError as error:
        await send_refusal(request, error)


def _is_answerable(bus: Bus, reply: str, verb: str) -> bool:
    """Whether an answer may go to ``reply``; where it may not, that is counted."""
    if is_answerable(reply, bus.subjects):
        return True
    problem = f"with the reply subject {reply}" if reply else "without a reply subject"
    metrics.count_degraded("service.no_reply", f"a request to {verb} came {problem}.")
    return False


def _call_handler(endpoint: Endpoint, tasks: anyio.abc.TaskGroup, limiter: anyio.Semaphore) -> Accept:
    """Answers requests of this process, with the same bound as :func:`_message_handler`."""

    async def answer(data: bytes, reply: "asyncio.Future[msgspec.Struct]") -> None:
        try:
            async with limiter:
                if reply.done():
                    return  # the caller left while this request waited for others
                with _refusals(endpoint.verb):
                    outcome = await endpoint.answer(data)
        except KikiError as error:
            if not reply.done():
                reply.set_exception(error)
        except BaseException:
            if not reply.done():
                reply.set_exception(no_answer(endpoint.verb, "it stopped"))
            raise
        else:
            if not reply.done():
                reply.set_result(outcome)

    def accept(data: bytes) -> "asyncio.Future[msgspec.Struct]":
        reply: asyncio.Future[msgspec.Struct] = asyncio.get_running_loop().create_future()
        tasks.start_soon(answer, data, reply)
        return reply

    return accept


@contextlib.contextmanager
def _refusals(verb: str) -> Iterator[None]:
    """Count an error raised in this context and raise it for the caller; an unexpected one is logged and replaced."""
    try:
        yield
    except KikiError as error:
        metrics.REFUSED.labels(verb, error.code).inc()
        raise
    except Exception:  # noqa: BLE001 - the caller gets a general error, the log has the reason
        _log.exception("service failed", verb=verb)
        metrics.REFUSED.labels(verb, KikiError.code).inc()
        raise fault_of(verb) from None


def _status_handler(bus: Bus, agent: Agent) -> Callable[[LiveMessage], Awaitable[None]]:
    """Every instance answers ``svc.status`` with its :class:`AgentReport`."""

    async def send_report(message: LiveMessage) -> None:
        if not _is_answerable(bus, message.reply, STATUS.verb):
            return
        report = AgentReport(
            status=agent.status(),
            pid=os.getpid(),
            metrics=generate_latest(metrics.REGISTRY).decode(),
            host=socket.gethostname(),
            resident_bytes=metrics.read_resident_bytes(),
        )
        await bus.send(message.reply, encode(report))

    return send_report


async def gather_reports(bus: Bus, *, expected: Collection[str] = ()) -> list[AgentReport]:
    """The reports of all agent instances; those named in ``expected`` have more time to answer (:func:`gather`)."""

    def includes_expected(replies: Sequence[AgentReport]) -> bool:
        return {report.status.agent for report in replies} >= set(expected)

    return await gather(
        bus.client,
        bus.subjects.service(STATUS.verb),
        AgentReport,
        enough=includes_expected,
        note=partial(metrics.count_degraded, "agent.report"),
    )
