"""Services that answer with the contract's examples, and a body for every route that takes one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec

from bus.agent import Endpoint
from bus.connection import Bus
from bus.testing import run_agents
from schemas.asyncapi.examples import example
from schemas.calls import EMBED, SERVICES, Service
from schemas.embedder import EmbedReply, EmbedRequest
from schemas.status import StatusReply
from tests.runtime.facade.reporters import Reporter
from tests.runtime.facade.scripted import chat_body

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": chat_body(),
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": chat_body(),
    "/v1/messages/count_tokens": chat_body(),
    "/v1/embeddings": {"input": "hello"},
    "/v1/route": {"prompt": "hello"},
}
"""Bodies that are served."""


@asynccontextmanager
async def run_example_services(bus: Bus) -> AsyncIterator[None]:
    """Everybody whom the facade asks, except those who answer turns."""
    services = [service for service in SERVICES if service != EMBED and "{" not in service.verb]
    endpoints = [Endpoint(service, partial(_answer, service)) for service in services]
    embed = Endpoint(EMBED, _embed)
    status = StatusReply(agent="embedder", ready=True, info={"model": "small"})
    async with run_agents(bus, Reporter(status, embed, *endpoints)):
        yield


async def _answer(service: Service[Any, Any], _: msgspec.Struct) -> msgspec.Struct:
    reply: msgspec.Struct = msgspec.convert(example(service.reply), service.reply)
    return reply


async def _embed(request: EmbedRequest) -> EmbedReply:
    return EmbedReply(vectors=((0.6, 0.8),) * len(request.texts), compute=0.0, tokens=(1,) * len(request.texts))
