"""Bodies are counted and timed while they are read, whatever their headers say."""

import json
from collections.abc import AsyncIterator

import anyio
import httpx
import pytest

from runtime.facade import FacadeSettings
from tests.runtime.facade.scripted import Script, chat_body

pytestmark = pytest.mark.anyio
LIMIT = 2000


@pytest.fixture(scope="module")
def settings() -> FacadeSettings:
    return FacadeSettings(port=0, body_limit=LIMIT, body_timeout=0.3)


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_over_the_limit_is_refused(http: httpx.AsyncClient, chunked: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * LIMIT

    reply = await http.post("/v1/chat/completions", content=chunks() if chunked else b" " * 3 * LIMIT)
    assert ("content-length" in reply.request.headers) is not chunked
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")
    assert reply.headers["connection"] == "close"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/route"])
async def test_a_slow_body_is_refused(http: httpx.AsyncClient, path: str) -> None:
    """Over a plain socket, as an HTTP client that still sends does not read. The facade ends the connection."""
    url = http.base_url
    async with await anyio.connect_tcp(url.host, url.port or 0) as stream:
        await stream.send(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
        reply = b"".join([piece async for piece in stream])
    assert reply.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in reply


async def test_a_sender_that_leaves_in_the_middle_disturbs_no_other_request(
    http: httpx.AsyncClient, script: Script
) -> None:
    url = http.base_url
    async with await anyio.connect_tcp(url.host, url.port or 0) as stream:
        await stream.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert (await http.post("/v1/chat/completions", json=chat_body())).status_code == 200


async def test_a_body_of_exactly_the_limit_is_served(http: httpx.AsyncClient, script: Script) -> None:
    body = json.dumps(chat_body()).encode()
    reply = await http.post("/v1/chat/completions", content=body + b" " * (LIMIT - len(body)))
    assert reply.status_code == 200
