"""Answers tenants' services. Who asks is on the subject, which the broker grants to that tenant's users alone.

The gate writes the tenant into the turn, chooses the turn's id, and gives out what is the tenant's. It answers only on
reply subjects of that tenant (``_INBOX.ask.<tenant>.>``): no tenant can have an answer sent to another one, or onto a
subject of the runtime's.
"""

import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import msgspec
import structlog

from agents.tenants.answers import TenantAsker, answer_turn, find_answer, read_records
from agents.tenants.settings import TenantsSettings
from bus import metrics
from bus.access.login import tenant_inbox
from bus.agent import Endpoint
from bus.connection import Bus, LiveMessage
from bus.handler import Handler
from schemas.calls import TENANT_END, TENANT_RECORDS, TENANT_SERVICES, TENANT_TURN
from schemas.codec import decode, encode
from schemas.envelope import TENANT_PATTERN
from schemas.errors import InvalidInput, KikiError, Refused
from schemas.status import ServiceError, StatusReply

_log = structlog.get_logger("tenants")


class TenantsAgent:
    """Gives each tenant's services that tenant's turns and records."""

    name = "tenants"

    def __init__(self, settings: TenantsSettings | None = None) -> None:
        self._settings = settings or TenantsSettings()
        self._in_hand: Counter[str] = Counter()
        self._bus: Bus

    @asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        """Listen; several gates share the requests."""
        self._bus = bus
        async with anyio.create_task_group() as tasks:

            async def accept(message: LiveMessage) -> None:
                tasks.start_soon(self._respond, message)

            stop_listening = await bus.listen(bus.subjects.ask("*", "*"), accept, queue=self.name)
            try:
                yield
            finally:
                await stop_listening()
                tasks.cancel_scope.cancel()

    def handlers(self) -> Sequence[Handler[Any]]:
        """Reads no events but those of its own turns."""
        return ()

    def endpoints(self) -> Sequence[Endpoint]:
        """None of the runtime's own: tenants' requests have subjects of their own."""
        return ()

    def status(self) -> StatusReply:
        """How many requests are worked on."""
        return StatusReply(agent=self.name, ready=True, gauges={"in_hand": float(self._in_hand.total())})

    async def _respond(self, message: LiveMessage) -> None:
        """Answer one request. Its own fault, or a broker that is away, ends neither the agent nor other requests."""
        _, _, tenant, verb = message.subject.split(".")
        if re.fullmatch(TENANT_PATTERN, tenant) is None or not message.reply.startswith(f"{tenant_inbox(tenant)}."):
            problem = f"tenant '{tenant}' asks for a reply on '{message.reply}', which is none of its own subjects."
            metrics.count_degraded("tenants.reply", problem)
            return
        try:
            reply = await self._answer(TenantAsker(self._bus, tenant, message.reply), verb, message)
            await self._bus.send(message.reply, reply)
        except KikiError as error:
            await self._refuse(message.reply, verb, error)
        except Exception as error:  # noqa: BLE001 - the asker gets a general error, the log has the reason
            _log.exception("request failed", tenant=tenant, verb=verb)
            await self._refuse(message.reply, verb, KikiError(f"{verb} failed ({type(error).__name__})."))

    async def _answer(self, asker: TenantAsker, verb: str, message: LiveMessage) -> bytes:
        if self._in_hand[asker.tenant] >= self._settings.requests_at_once:
            raise Refused(f"{self._settings.requests_at_once} requests are in hand: wait for one of them to end.")
        self._in_hand[asker.tenant] += 1
        try:
            reply = await self._work(asker, verb, message.data)
        finally:
            self._in_hand[asker.tenant] -= 1
            self._in_hand += Counter()  # drops tenants without a request
        return encode(reply)

    async def _work(self, asker: TenantAsker, verb: str, data: bytes) -> msgspec.Struct:
        if verb == TENANT_TURN.verb:
            return await answer_turn(asker, decode(TENANT_TURN.request, data))
        if verb == TENANT_END.verb:
            return await find_answer(asker, decode(TENANT_END.request, data))
        if verb == TENANT_RECORDS.verb:
            return await read_records(asker, decode(TENANT_RECORDS.request, data), scan=self._settings.scan)
        verbs = ", ".join(service.verb for service in TENANT_SERVICES)
        raise InvalidInput(f"there is no verb '{verb}': choose from {verbs}.", param="verb")

    async def _refuse(self, reply: str, verb: str, error: KikiError) -> None:
        metrics.REFUSED.labels("ask" if error.param == "verb" else f"ask.{verb}", error.code).inc()
        body = ServiceError(code=error.code, message=error.message, param=error.param, retryable=error.retryable)
        headers = {"Nats-Service-Error": error.code, "Nats-Service-Error-Code": str(error.status)}
        try:
            await self._bus.send(reply, encode(body), headers=headers)
        except KikiError as lost:
            metrics.count_degraded("tenants.reply", lost.message)
