"""Agents that only report."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from bus.agent import Endpoint
from bus.connection import Bus
from bus.handler import Handler
from schemas.status import StatusReply


class Reporter:
    """An agent with this status, and perhaps endpoints."""

    def __init__(self, status: StatusReply, *endpoints: Endpoint) -> None:
        self.name = status.agent
        self._status = status
        self._endpoints = endpoints

    @contextlib.asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        yield

    def handlers(self) -> Sequence[Handler[Any]]:
        return ()

    def endpoints(self) -> Sequence[Endpoint]:
        return self._endpoints

    def status(self) -> StatusReply:
        return self._status
