"""What a guest in another program answers: its requests, and how it is. Needs nats-py and msgspec only."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from nats.aio.client import Client as Connection
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.micro.request import Request

from bus.errors import BROKER_ERRORS, describe
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
from bus.subjects import Subjects
from schemas.calls import STATUS
from schemas.codec import encode
from schemas.errors import KikiError
from schemas.status import AgentReport, StatusReply

STOP_SECONDS = 1.0
"""Seconds that the broker may take for the end of the subscriptions."""

_log = logging.getLogger("micro_kiki_client")


class RequestServer:
    """Serves a guest's endpoints, and ``status``, on its connection; ``report`` says how the guest is."""

    def __init__(
        self,
        connection: Connection,
        subjects: Subjects,
        *,
        agent: str,
        endpoints: Sequence[Endpoint],
        report: Callable[[], StatusReply],
    ) -> None:
        self._connection, self._subjects, self._agent = connection, subjects, agent
        self._report = report
        self._endpoints = (*endpoints, Endpoint(STATUS.at(agent), self._answer_status))

    @contextlib.asynccontextmanager
    async def serve(
        self, tasks: asyncio.TaskGroup, listeners: dict[str, Callable[[Msg], Awaitable[None]]]
    ) -> AsyncIterator[None]:
        """Answer requests as long as the context lasts, each in one of ``tasks``; and have the ``listeners`` called,
        by their subjects."""
        service = make_service(
            self._connection, self._subjects, agent=self._agent, description=f"{self._agent}, a guest"
        )
        limiter = asyncio.Semaphore(REQUESTS_AT_ONCE)
        subscriptions: list[Subscription] = []
        try:
            await service.start()
            for endpoint in self._endpoints:
                await add_endpoint(service, self._subjects, endpoint, self._make_callback(endpoint, tasks, limiter))
            listeners = {self._subjects.service(STATUS.verb): self._send_report, **listeners}
            for subject, listener in listeners.items():
                subscriptions.append(await self._connection.subscribe(subject, cb=listener))
            await self._connection.flush()
            yield
        finally:
            with contextlib.suppress(*BROKER_ERRORS):
                async with asyncio.timeout(STOP_SECONDS):
                    for subscription in subscriptions:
                        await subscription.unsubscribe()
                    await service.stop()

    def _make_callback(
        self, endpoint: Endpoint, tasks: asyncio.TaskGroup, limiter: asyncio.Semaphore
    ) -> Callable[[Request], Awaitable[None]]:
        """Makes each request a task: nats-py awaits one callback at a time."""

        async def accept(request: Request) -> None:
            if is_answerable(reply_subject(request), self._subjects):
                await limiter.acquire()
                tasks.create_task(self._respond(endpoint, request)).add_done_callback(lambda _: limiter.release())

        return accept

    async def _respond(self, endpoint: Endpoint, request: Request) -> None:
        try:
            try:
                await request.respond(await self._answer(endpoint, request.data))
            except KikiError as error:
                await send_refusal(request, error)
        except BROKER_ERRORS as error:
            _log.warning("%s: a reply to %s was not sent: %s", self._agent, endpoint.verb, describe(error))

    async def _answer(self, endpoint: Endpoint, data: bytes) -> bytes:
        try:
            return encode_reply(endpoint.verb, await endpoint.answer(data), self._connection.max_payload)
        except KikiError:
            raise
        except Exception:  # noqa: BLE001 - the caller gets a general error, the log has the reason
            _log.exception("%s: %s failed", self._agent, endpoint.verb)
            raise fault_of(endpoint.verb) from None

    async def _answer_status(self, _: None) -> StatusReply:
        return self._report()

    async def _send_report(self, message: Msg) -> None:
        if is_answerable(message.reply, self._subjects):
            report = AgentReport(status=self._report(), pid=os.getpid(), host=socket.gethostname())
            await self._connection.publish(message.reply, encode(report))
