"""Bodies are counted and timed while they are read, whatever their headers say."""

import gzip
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
        await stream.send(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{{".encode())
        reply = b"".join([piece async for piece in stream])
    assert reply.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in reply


async def test_a_sender_that_leaves_in_the_middle_disturbs_no_other_request(
    http: httpx.AsyncClient, script: Script
) -> None:
    url = http.base_url
    async with await anyio.connect_tcp(url.host, url.port or 0) as stream:
        await stream.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
    assert (await http.post("/v1/chat/completions", json=chat_body())).status_code == 200


async def test_a_body_of_exactly_the_limit_is_served(http: httpx.AsyncClient, script: Script) -> None:
    body = json.dumps(chat_body()).encode()
    reply = await http.post("/v1/chat/completions", content=body + b" " * (LIMIT - len(body)))
    assert reply.status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/route", "/chat/completions/"])
@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "text/plain;charset=UTF-8",
        "text/plain; application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "application/json, text/plain",
        "nonsense",
    ],
)
async def test_a_body_that_is_not_declared_as_json_is_refused(
    http: httpx.AsyncClient, script: Script, path: str, kind: str
) -> None:
    """A page may send a form or plain text to any server without asking it first."""
    reply = await http.post(path, content=json.dumps(chat_body()), headers={"content-type": kind})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (415, "unsupported_media_type", "Content-Type")
    assert "'Content-Type: application/json'" in error["message"]
    assert script.queries == []


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/vnd.api+json",
        "application/problem+json;v=1",
        "",
        None,
    ],
)
async def test_a_body_declared_as_json_or_not_at_all_is_read(
    http: httpx.AsyncClient, script: Script, kind: str | None
) -> None:
    headers = {} if kind is None else {"content-type": kind}
    reply = await http.post("/v1/chat/completions", content=json.dumps(chat_body()), headers=headers)
    assert ("content-type" in reply.request.headers) is (kind is not None)
    assert reply.status_code == 200


@pytest.mark.parametrize(
    ("encoding", "status"), [("gzip", 415), ("br", 415), ("gzip, identity", 415), ("identity", 200), ("", 200)]
)
async def test_a_compressed_body_is_asked_for_plain(
    http: httpx.AsyncClient, script: Script, encoding: str, status: int
) -> None:
    body = json.dumps(chat_body()).encode()
    content = gzip.compress(body) if status == 415 else body
    headers = {"content-type": "application/json", "content-encoding": encoding}
    reply = await http.post("/v1/chat/completions", content=content, headers=headers)
    assert reply.status_code == status
    if status == 415:
        error = reply.json()["error"]
        assert (error["code"], error["param"]) == ("unsupported_media_type", "Content-Encoding")
        assert "send it plain" in error["message"]
        assert reply.headers["accept-encoding"] == "identity"


async def test_a_refused_body_leaves_the_connection_usable(http: httpx.AsyncClient, script: Script) -> None:
    url, body = http.base_url, b"x" * 1000
    lines = ["POST /v1/route HTTP/1.1", "Host: 127.0.0.1", "Content-Type: text/plain", f"Content-Length: {len(body)}"]
    async with await anyio.connect_tcp(url.host, url.port or 0) as stream:
        for _ in range(2):
            await stream.send("\r\n".join([*lines, "", ""]).encode())
            await anyio.sleep(0.05)
            await stream.send(body)
            assert (await stream.receive()).startswith(b"HTTP/1.1 415")
