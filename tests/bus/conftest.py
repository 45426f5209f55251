"""Small events and a consumer that runs beside the test."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio

from bus.connection import Bus
from bus.handler import Consumer, Handler
from schemas.chat import Message
from schemas.envelope import new_turn
from schemas.events import QueryReceived, TurnCancelled
from schemas.findings import Query


def query(
    *, timeout: float = 20.0, text: str = "hello", turn: str | None = None, tenant: str = "tests"
) -> QueryReceived:
    """A turn that asks ``text``."""
    envelope = new_turn(tenant=tenant, timeout=timeout, key=turn)
    return QueryReceived(
        envelope=envelope, query=Query(model="micro-kiki", messages=(Message(role="user", content=text),))
    )


def reply(event: QueryReceived) -> TurnCancelled:
    """Any event that the stream keeps, as the handler's result."""
    return TurnCancelled(envelope=event.envelope.next("echo"), reason="answered")


async def declare_consumer(bus: Bus, handle: Any, **settings: Any) -> Consumer[QueryReceived]:
    """A consumer of ``query.received`` under the stage name 'echo', which does not run yet."""
    handler = Handler(stage="echo", event=QueryReceived, handle=handle, **settings)
    consumer = Consumer(bus, handler, fetch_seconds=0.5, check_seconds=0.5)
    await consumer.declare()
    return consumer


@contextlib.asynccontextmanager
async def run_consumer(bus: Bus, handle: Any, **settings: Any) -> AsyncIterator[Consumer[QueryReceived]]:
    """A consumer as :func:`declare_consumer` declares it, as long as the context lasts."""
    consumer = await declare_consumer(bus, handle, **settings)
    async with run_beside(consumer):
        yield consumer


@contextlib.asynccontextmanager
async def run_beside(consumer: Consumer[Any]) -> AsyncIterator[None]:
    """Run a declared consumer as long as the context lasts."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.run)
        yield
        tasks.cancel_scope.cancel()


async def eventually(check: Callable[[], Any], *, seconds: float = 30.0) -> Any:
    """Await ``check`` until it gives something truthy; fail the test when it never does."""
    with anyio.move_on_after(seconds):
        while True:
            value = await check()
            if value:
                return value
            await anyio.sleep(0.03)
    raise AssertionError(f"did not happen within {seconds} s")
