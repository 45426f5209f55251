"""The client of a tenant's service: it asks as that tenant, and gets that tenant's turns and records alone.

Needs nats-py and msgspec only. Its user's file is one of ``kiki broker creds NAME --tenant TENANT``.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
from nats.aio.client import Client as Connection

from bus.access.login import Login
from bus.client import TIMEOUT, connect
from bus.errors import translate_errors
from bus.request import read_reply, request
from bus.subjects import DEFAULT_PREFIX, Subjects
from schemas.calls import TENANT_END, TENANT_RECORDS, TENANT_TURN, Service
from schemas.codec import decode, encode
from schemas.errors import InvalidInput
from schemas.findings import Query
from schemas.tenants import (
    PIECE,
    TenantAnswer,
    TenantEnd,
    TenantPiece,
    TenantRecords,
    TenantRecordsReply,
    TenantTurn,
)

Q = TypeVar("Q", bound=msgspec.Struct | None)
R = TypeVar("R", bound=msgspec.Struct)


@asynccontextmanager
async def connect_tenant(url: str, nkey: Path, *, prefix: str = DEFAULT_PREFIX) -> AsyncIterator["TenantClient"]:
    """A client for the tenant that the name of the file ``nkey`` says.

    Raises:
        Unavailable: no broker answers at ``url``.
        SetupError: it refuses the login, or the file cannot be read.
        InvalidInput: the file is no tenant's.
    """
    parts = nkey.stem.split(".")
    if len(parts) != 3 or parts[0] != "ask":
        raise InvalidInput(f"{nkey.name} is no tenant's file: one is named ask.TENANT.NAME.nk.", param="nkey")
    async with connect(url, prefix=prefix, login=Login(nkey=nkey)) as client:
        yield TenantClient(client.connection, parts[1], prefix=prefix)


class TenantClient:
    """What a tenant's service can ask. Made by :func:`connect_tenant`."""

    def __init__(self, connection: Connection, tenant: str, *, prefix: str) -> None:
        self.connection = connection
        self.tenant = tenant
        self._subjects = Subjects(prefix)

    async def ask(self, turn: TenantTurn) -> TenantAnswer:
        """Ask a question and wait for the answer.

        Raises:
            KikiError: the turn failed; ``code`` is public.
            Unavailable: the gate is away.
        """
        whole = msgspec.structs.replace(turn, query=_with_stream(turn.query, stream=False))
        return await self._request(TENANT_TURN, whole, timeout=turn.timeout + TIMEOUT)

    async def stream(self, turn: TenantTurn) -> AsyncGenerator[TenantPiece | TenantAnswer, None]:
        """The answer in pieces while it is decoded, then the whole of it.

        Raises:
            KikiError: the turn failed, or the gate is away.
        """
        inbox = self.connection.new_inbox()
        body = encode(msgspec.structs.replace(turn, query=_with_stream(turn.query, stream=True)))
        with translate_errors("the turn was not answered"):
            subscription = await self.connection.subscribe(inbox)
            try:
                await self.connection.publish(self._subjects.ask(self.tenant, TENANT_TURN.verb), body, reply=inbox)
                while True:
                    message = await subscription.next_msg(timeout=turn.timeout + TIMEOUT)
                    if PIECE not in (message.headers or {}):
                        yield read_reply(message, TenantAnswer)
                        return
                    yield decode(TenantPiece, message.data)
            finally:
                await subscription.unsubscribe()

    async def find_answer(self, turn_id: str) -> TenantAnswer:
        """How a turn of the tenant's ended.

        Raises:
            KikiError: ``turn_not_found``, ``in_hand`` while it runs, or the turn's own error.
        """
        return await self._request(TENANT_END, TenantEnd(turn_id=turn_id))

    async def read_records(self, *, after: int = 0, limit: int = 32, user: str | None = None) -> TenantRecordsReply:
        """The tenant's next records after a sequence; go on with the reply's ``after`` while there are ``more``."""
        return await self._request(TENANT_RECORDS, TenantRecords(after=after, limit=limit, user=user))

    async def _request(self, service: Service[Q, R], body: Q, *, timeout: float = TIMEOUT) -> R:
        subject = self._subjects.ask(self.tenant, service.verb)
        return await request(self.connection, subject, service, body, timeout=timeout)


def _with_stream(query: Query, *, stream: bool) -> Query:
    return msgspec.structs.replace(query, stream=stream)
