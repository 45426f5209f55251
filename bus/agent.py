"""An agent: it handles events and answers requests, and the stock ``nats`` command line can discover it."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
import anyio.abc
import msgspec
import structlog
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, Service, ServiceConfig
from prometheus_client import generate_latest

from bus import metrics
from bus.connection import Bus, LiveMessage
from bus.errors import BROKER_ERRORS
from bus.handler import Consumer, Handler
from bus.local_endpoints import Accept
from bus.request import gather, no_answer
from schemas.codec import decode, encode
from schemas.errors import KikiError, SetupError
from schemas.status import ServiceError, StatusReply

VERSION = "0.1.0"
REQUESTS_AT_ONCE = 32
"""Requests that one agent answers at the same time; further ones wait in the subscription."""

_log = structlog.get_logger("bus")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A request that the agent answers at ``<prefix>.svc.<verb>``."""

    verb: str
    request: type[Any]
    handle: Callable[[Any], Awaitable[msgspec.Struct]]


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
    service = Service(
        bus.client,
        ServiceConfig(
            name=f"kiki-{agent.name}",
            version=VERSION,
            description=(agent.__doc__ or agent.name).strip().splitlines()[0],
            metadata={"pid": str(os.getpid()), "prefix": bus.subjects.prefix},
        ),
    )
    with contextlib.suppress(*BROKER_ERRORS):  # of its flush: the subscriptions are made, and run_agent flushes, too
        await service.start()

    async def status(_: None) -> StatusReply:
        return agent.status()

    limiter = anyio.Semaphore(REQUESTS_AT_ONCE, fast_acquire=True)
    with contextlib.ExitStack() as stack:
        for endpoint in (*agent.endpoints(), Endpoint(verb=f"status.{agent.name}", request=type(None), handle=status)):
            await service.add_endpoint(
                EndpointConfig(
                    name=endpoint.verb.replace(".", "-"),
                    subject=bus.subjects.service(endpoint.verb),
                    handler=_message_handler(bus, endpoint, tasks, limiter),
                    metadata={"request": endpoint.request.__name__},
                )
            )
            stack.enter_context(bus.local_endpoints.serve(endpoint.verb, _call_handler(endpoint, tasks, limiter)))
        stop_reporting = await bus.listen(bus.subjects.service("status"), _status_handler(bus, agent))
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
    if not _is_answerable(bus, request._msg.reply, endpoint.verb):  # nats-py shows it nowhere else
        return
    try:
        with _refusals(endpoint.verb):
            data = encode(await _answer(endpoint, request.data))
            if len(data) > bus.client.max_payload:
                raise KikiError(f"the reply to {endpoint.verb} has {len(data)} bytes, more than the broker takes.")
        await request.respond(data)
    except KikiError as error:
        body = ServiceError(code=error.code, message=error.message, param=error.param)
        description = " ".join(error.message[:200].split())  # a header is one line
        await request.respond_error(code=str(error.status), description=description, data=encode(body))


def _is_answerable(bus: Bus, reply: str, verb: str) -> bool:
    """Whether an answer may go to ``reply``: an agent must not publish on the runtime's or the broker's own subjects
    what somebody asks it to, who may not do so themselves. Anything else is counted."""
    root = reply.split(".", 1)[0]
    is_answerable = bool(reply) and root != bus.subjects.prefix and not root.startswith("$")
    if not is_answerable:
        problem = f"with the reply subject {reply}" if reply else "without a reply subject"
        metrics.count_degraded("service.no_reply", f"a request to {verb} came {problem}.")
    return is_answerable


def _call_handler(endpoint: Endpoint, tasks: anyio.abc.TaskGroup, limiter: anyio.Semaphore) -> Accept:
    """Answers requests of this process, with the same bound as :func:`_message_handler`."""

    async def answer(data: bytes, reply: "asyncio.Future[msgspec.Struct]") -> None:
        try:
            async with limiter:
                if reply.done():
                    return  # the caller left while this request waited for others
                with _refusals(endpoint.verb):
                    outcome = await _answer(endpoint, data)
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


async def _answer(endpoint: Endpoint, data: bytes) -> msgspec.Struct:
    return await endpoint.handle(None if endpoint.request is type(None) else decode(endpoint.request, data))


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
        raise KikiError(f"{verb} failed; the agent's log says why.") from None


def _status_handler(bus: Bus, agent: Agent) -> Callable[[LiveMessage], Awaitable[None]]:
    """Every instance answers ``svc.status`` with its :class:`Report`."""

    async def send_report(message: LiveMessage) -> None:
        if not _is_answerable(bus, message.reply, "status"):
            return
        report = Report(
            status=agent.status(),
            pid=os.getpid(),
            metrics=generate_latest(metrics.REGISTRY).decode(),
            host=socket.gethostname(),
            resident_bytes=metrics.read_resident_bytes(),
        )
        await bus.send(message.reply, encode(report))

    return send_report


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One instance's answer to ``svc.status``: its status and its metrics in Prometheus text format.

    ``resident_bytes`` are those of its process, other agents in it included; 0 when it does not say.
    """

    status: StatusReply
    pid: int
    metrics: str
    host: str = ""
    resident_bytes: int = 0


async def gather_reports(bus: Bus, *, expected: Collection[str] = ()) -> list[Report]:
    """The reports of all agent instances; those named in ``expected`` have more time to answer (:func:`gather`)."""

    def includes_expected(replies: Sequence[Report]) -> bool:
        return {report.status.agent for report in replies} >= set(expected)

    return await gather(bus.client, bus.subjects.service("status"), Report, enough=includes_expected)
