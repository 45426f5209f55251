"""Requests that schemathesis makes up from the OpenAPI document, good and bad ones.

Every reply must be one of those that the document has for the route, and come in time; what is refused has the shape of
an error, and a refusal of 500 and above must be one that may be tried again.
"""

from functools import partial
from typing import Any

import anyio.to_thread
import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, strategies
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation

from runtime.facade import FacadeSettings
from runtime.facade.errors import RETRYABLE
from tests.runtime.facade.conformance import DOCUMENT, check_reply
from tests.runtime.facade.example_services import BODIES
from tests.runtime.facade.scripted import Script

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]

Requests = APIOperation[Any, Any, Any, Any]
OPERATIONS: list[Requests] = [
    result.ok() for result in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations() if isinstance(result, Ok)
]
EXAMPLES = {"post": 12, "get": 4, "delete": 4, "head": 1}
"""Requests for each operation of a method."""

KEYS: tuple[dict[str, str], ...] = ({}, {"Authorization": "Bearer secret"}, {"X-Api-Key": "secret"})
SECONDS = 20.0
"""No reply may take longer."""


@pytest.fixture(scope="module")
def settings() -> FacadeSettings:
    return FacadeSettings(port=0, admin_key="secret", turn_timeout=5.0, expected_agents=("embedder",))


def send_requests(operation: Requests, url: str, *, times: int = 1) -> None:
    """Send good and bad requests of one operation, and check each reply."""

    @hypothesis.settings(
        max_examples=times * EXAMPLES[operation.method],
        derandomize=times == 1,
        database=None,
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
        if places is not None and isinstance(case.body, dict):  # a few fields of it: others would hide what they do
            fields = list(case.body.items())
            case.body = BODIES[operation.path] | dict(fields[place % len(fields)] for place in places if fields)
        reply = case.call(base_url=url, headers=keys, timeout=SECONDS)
        headers = {name: values[0] for name, values in reply.headers.items()}
        path = reply.request.path_url.partition("?")[0]
        check_reply(operation.method.upper(), path, reply.status_code, headers, reply.content)
        assert reply.status_code < 500 or reply.status_code in RETRYABLE, reply.content

    send()


async def test_every_reply_is_in_the_document(url: str, script: Script, example_services: None) -> None:
    for operation in OPERATIONS:
        await anyio.to_thread.run_sync(partial(send_requests, operation, url))


@pytest.mark.soak
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
async def test_a_thousand_replies_are_in_the_document(
    url: str, script: Script, example_services: None, operation: Requests
) -> None:
    await anyio.to_thread.run_sync(partial(send_requests, operation, url, times=80))


def test_every_body_has_an_example() -> None:
    assert set(BODIES) == {path for path, item in DOCUMENT["paths"].items() if "requestBody" in item.get("post", {})}
