"""Requests that schemathesis makes up from the OpenAPI document, good and bad ones, and bytes that no document has.

Every reply must be one of those that the document has for the route, and come in time; what is refused has the shape of
an error, and a refusal of 500 and above must be one that may be tried again.
"""

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import anyio.to_thread
import hypothesis
import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, strategies
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation

from bus.agent import Endpoint
from bus.connection import Bus
from bus.testing import run_agents
from runtime.facade import FacadeSettings
from runtime.facade.errors import RETRYABLE
from schemas.asyncapi.document import SERVICES, Service
from schemas.asyncapi.examples import example
from schemas.embedder import EmbedReply, EmbedRequest
from schemas.status import StatusReply
from tests.runtime.facade.conformance import DOCUMENT, check_reply
from tests.runtime.facade.reporters import Reporter
from tests.runtime.facade.scripted import Script, chat_body

pytestmark = pytest.mark.anyio
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = [result.ok() for result in SCHEMA.get_all_operations() if isinstance(result, Ok)]
EXAMPLES = {"post": 20, "get": 5, "delete": 5, "head": 2}
"""Requests for each operation of a method."""

KEYS: tuple[dict[str, str], ...] = ({}, {"Authorization": "Bearer secret"}, {"X-Api-Key": "secret"})
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": chat_body(),
    "/v1/completions": {"prompt": "hello"},
    "/v1/messages": chat_body(),
    "/v1/messages/count_tokens": chat_body(),
    "/v1/embeddings": {"input": "hello"},
    "/v1/route": {"prompt": "hello"},
}
"""Bodies that are served."""

SECONDS = 10.0
"""No reply may take longer."""


@pytest.fixture(scope="module")
def settings() -> FacadeSettings:
    return FacadeSettings(port=0, admin_key="secret", turn_timeout=5.0, expected_agents=("embedder",))


@pytest.fixture
async def agents(bus: Bus, script: Script) -> AsyncIterator[None]:
    """Everybody whom the facade asks: turns are played as scripted, services answer with the contract's examples."""
    services = [service for service in SERVICES if service.verb != "embed"]
    endpoints = [Endpoint(verb=each.verb, request=each.request, handle=partial(_answer, each)) for each in services]
    embed = Endpoint(verb="embed", request=EmbedRequest, handle=_embed)
    status = StatusReply(agent="embedder", ready=True, info={"model": "small"})
    async with run_agents(bus, Reporter(status, embed, *endpoints)):
        yield


async def _answer(service: Service, _: msgspec.Struct) -> msgspec.Struct:
    reply: msgspec.Struct = msgspec.convert(example(service.reply), service.reply)
    return reply


async def _embed(request: EmbedRequest) -> EmbedReply:
    return EmbedReply(vectors=((0.6, 0.8),) * len(request.texts), compute=0.0, tokens=(1,) * len(request.texts))


def send_requests(operation: APIOperation[Any, Any, Any, Any], url: str, *, examples: int) -> None:
    """Send good and bad requests of one operation, and check each reply."""

    @hypothesis.settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(
        case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
        | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
        keys=strategies.sampled_from(KEYS),
        places=strategies.none() | strategies.lists(strategies.integers(0, 99), max_size=3),
    )
    def send(case: schemathesis.Case[Any], keys: dict[str, str], places: list[int] | None) -> None:
        if places is not None and isinstance(case.body, dict):
            fields = list(case.body.items())
            case.body = BODIES[operation.path] | dict(fields[place % len(fields)] for place in places if fields)
        reply = case.call(base_url=url, headers=keys, timeout=SECONDS)
        headers = {name: values[0] for name, values in reply.headers.items()}
        path = reply.request.path_url.partition("?")[0]
        check_reply(operation.method.upper(), path, reply.status_code, headers, reply.content)
        assert reply.status_code < 500 or reply.status_code in RETRYABLE, reply.content

    send()


async def test_every_reply_is_in_the_document(url: str, agents: None) -> None:
    for operation in OPERATIONS:
        send = partial(send_requests, operation, url, examples=EXAMPLES[operation.method])
        with anyio.fail_after(60):
            await anyio.to_thread.run_sync(send)
