"""An agent: handlers on subjects, services on request, discoverable by the stock ``nats`` tools."""

import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
import anyio.abc
import msgspec
import structlog
from nats.aio.msg import Msg
from nats.micro import add_service
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, ServiceConfig
from prometheus_client import generate_latest

from bus import metrics
from bus.connection import Bus
from bus.handler import Consumer, Handler
from schemas.codec import decode, encode
from schemas.errors import KikiError
from schemas.status import ServiceError, StatusReply

VERSION = "0.1.0"
REQUESTS_AT_ONCE = 32
"""Service requests that one agent has in hand; further ones wait in the subscription."""

_log = structlog.get_logger("bus")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A request that the agent answers at ``<prefix>.svc.<verb>``."""

    verb: str
    request: type[Any]
    handle: Callable[[Any], Awaitable[msgspec.Struct]]


class Agent(Protocol):
    """What every stage is. ``open`` acquires models and stores for as long as the agent runs."""

    name: str

    def open(self, bus: Bus) -> contextlib.AbstractAsyncContextManager[None]:
        """Acquire what the agent needs; released when the context ends."""
        ...

    def handlers(self) -> Sequence[Handler[Any]]:
        """The events it reads."""
        ...

    def endpoints(self) -> Sequence[Endpoint]:
        """The requests it answers."""
        ...

    def status(self) -> StatusReply:
        """Whether it can take work, with its gauges."""
        ...


async def run_agent(
    agent: Agent, bus: Bus, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Serve ``agent`` until cancelled. ``task_status`` starts once it takes work.

    Raises:
        SetupError: a consumer differs from its declaration, or the agent cannot open what it needs.
    """
    await bus.reconcile()
    async with agent.open(bus), anyio.create_task_group() as tasks:
        consumers = [Consumer(bus, handler) for handler in agent.handlers()]
        for consumer in consumers:
            await consumer.declare()
        for consumer in consumers:
            tasks.start_soon(consumer.run)
        service = await _serve(agent, bus, tasks)
        await bus.flush()  # the broker knows its subscriptions before anybody hears that it is ready
        _log.info("agent ready", agent=agent.name)
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(1.0), contextlib.suppress(Exception):
                await service.stop()


async def _serve(agent: Agent, bus: Bus, tasks: anyio.abc.TaskGroup) -> Any:
    service = await add_service(
        bus.client,
        ServiceConfig(
            name=f"kiki-{agent.name}",
            version=VERSION,
            description=(agent.__doc__ or agent.name).strip().splitlines()[0],
            metadata={"pid": str(os.getpid()), "prefix": bus.subjects.prefix},
        ),
    )

    async def status(_: None) -> StatusReply:
        return agent.status()

    limiter = anyio.Semaphore(REQUESTS_AT_ONCE)
    for endpoint in (*agent.endpoints(), Endpoint(verb=f"status.{agent.name}", request=type(None), handle=status)):
        await service.add_endpoint(
            EndpointConfig(
                name=endpoint.verb.replace(".", "-"),
                subject=bus.subjects.service(endpoint.verb),
                handler=_request_handler(endpoint, tasks, limiter),
                metadata={"request": endpoint.request.__name__},
            )
        )
    await bus.listen(bus.subjects.service("status"), _status_handler(bus, agent))
    return service


def _request_handler(
    endpoint: Endpoint, tasks: anyio.abc.TaskGroup, limiter: anyio.Semaphore
) -> Callable[[Request], Awaitable[None]]:
    """nats-py awaits one callback at a time, so each request becomes a task of its own, up to a bound."""

    async def answer(request: Request) -> None:
        try:
            body = None if endpoint.request is type(None) else decode(endpoint.request, request.data)
            await request.respond(encode(await endpoint.handle(body)))
        except KikiError as error:
            await _refuse(request, error, endpoint.verb)
        except Exception:  # noqa: BLE001 - the asker gets an error, the log the reason
            _log.exception("service failed", verb=endpoint.verb)
            await _refuse(request, KikiError(f"{endpoint.verb} failed; the agent's log says why."), endpoint.verb)
        finally:
            limiter.release()

    async def accept(request: Request) -> None:
        await limiter.acquire()
        tasks.start_soon(answer, request)

    return accept


async def _refuse(request: Request, error: KikiError, verb: str) -> None:
    metrics.REFUSED.labels(verb, error.code).inc()
    body = ServiceError(code=error.code, message=error.message, param=error.param)
    await request.respond_error(code=str(error.status), description=error.message[:200], data=encode(body))


def _status_handler(bus: Bus, agent: Agent) -> Callable[[Msg], Awaitable[None]]:
    """Every instance answers ``svc.status`` with its :class:`Report`."""

    async def send_report(message: Msg) -> None:
        report = Report(
            status=agent.status(),
            pid=os.getpid(),
            metrics=generate_latest(metrics.REGISTRY).decode(),
            host=socket.gethostname(),
        )
        await bus.client.publish(message.reply, encode(report))

    return send_report


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One instance's answer to ``svc.status``: its status and its metrics in Prometheus text format."""

    status: StatusReply
    pid: int
    metrics: str
    host: str = ""


async def gather_reports(bus: Bus, *, expected: Collection[str] = ()) -> list[Report]:
    """The reports of all agent instances; those named in ``expected`` have more time to answer (:meth:`Bus.gather`)."""

    def includes_expected(replies: Sequence[Report]) -> bool:
        return {report.status.agent for report in replies} >= set(expected)

    return await bus.gather("status", Report, enough=includes_expected)
