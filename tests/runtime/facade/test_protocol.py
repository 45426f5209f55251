"""What is no HTTP, over a plain socket: every refusal is an error object, and the connection ends."""

import json

import anyio
import httpx
import pytest

from bus.connection import Bus
from runtime.facade import FacadeSettings
from tests.runtime.facade.plain_socket import exchange
from tests.runtime.facade.scripted import Script, chat_body, serve_facade

pytestmark = pytest.mark.anyio

HOST = b"Host: 127.0.0.1\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST


@pytest.mark.parametrize(
    ("pieces", "status", "code"),
    [
        ([b"nonsense\r\n\r\n"], 400, "malformed_request"),
        ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], 400, "malformed_request"),
        ([b"GET /v1/models\r\n\r\n"], 400, "malformed_request"),
        ([b"GET /v1/mod els HTTP/1.1\r\n" + HOST + b"\r\n"], 400, "malformed_request"),
        ([b"GET /v1/models HTTP/1.1\r\n\r\n"], 400, "malformed_request"),
        ([b"GET /v1/models HTTP/1.1\r\n" + 2 * HOST + b"\r\n"], 400, "malformed_request"),
        ([b"GET /v1/models HTTP/1.1\r\n" + HOST + b"no colon\r\n\r\n"], 400, "malformed_request"),
        ([b"GET /v1/models HTTP/1.1\r\n" + HOST + b"Na me: x\r\n\r\n"], 400, "malformed_request"),
        ([POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}"], 400, "malformed_request"),
        ([POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"], 400, "malformed_request"),
        ([POST + b"Content-Length: -1\r\n\r\n{}"], 400, "malformed_request"),
        ([POST + b"Transfer-Encoding: gzip\r\n\r\n{}"], 501, "not_implemented"),
        ([POST + b"Transfer-Encoding: chunked\r\n\r\n", b"zz\r\n"], 400, "malformed_request"),
        ([b"GET /" + b"a" * 20_000], 414, "uri_too_long"),
        ([b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 20_000], 431, "headers_too_large"),
        ([b"GET / HTTP/1.1\r\n" + HOST, *[b"X: " + b"a" * 9_000 + b"\r\n"] * 4], 431, "headers_too_large"),
    ],
)
async def test_a_message_that_is_no_http_is_refused_as_everything_else(
    http: httpx.AsyncClient, script: Script, pieces: list[bytes], status: int, code: str
) -> None:
    sent_status, headers, body = await exchange(http, *pieces)
    assert (sent_status, headers["connection"], headers["content-type"]) == (status, "close", "application/json")
    assert len(body) == int(headers["content-length"])
    error = json.loads(body)["error"]
    kind = "server_error" if status >= 500 else "invalid_request_error"
    assert (error["code"], error["type"], error["param"]) == (code, kind, None)
    assert error["message"]
    assert script.queries == []


async def test_a_refusal_does_not_repeat_what_was_sent(http: httpx.AsyncClient) -> None:
    _, _, body = await exchange(http, b"GET / HTTP/1.1\r\n" + HOST + b"Authorization\x00: Bearer secret\r\n\r\n")
    assert b"secret" not in body


async def test_a_sender_that_goes_on_still_reads_its_refusal(http: httpx.AsyncClient) -> None:
    status, _, _ = await exchange(http, b"GET / HTTP/1.1\r\n" + HOST + b"X: ", *[b"a" * 65_536] * 8)
    assert status == 431


async def test_a_body_that_breaks_ends_its_own_request_alone(http: httpx.AsyncClient, script: Script) -> None:
    status, _, _ = await exchange(http, POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n{XX")
    assert status == 400
    assert (await http.post("/v1/chat/completions", json=chat_body())).status_code == 200


async def test_a_connection_may_break_after_a_good_request(http: httpx.AsyncClient) -> None:
    url = http.base_url
    async with await anyio.connect_tcp(url.host, url.port or 0) as stream:
        await stream.send(b"GET /v1/models/micro-kiki HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await stream.receive()).startswith(b"HTTP/1.1 200")
        await stream.send(b"rubbish\r\n\r\n")
        rest = b"".join([piece async for piece in stream])
    assert rest.partition(b"HTTP/1.1 ")[2].startswith(b"400")
    assert b"malformed_request" in rest


async def test_a_request_that_the_facades_end_cuts_off_may_be_tried_again(bus: Bus) -> None:
    """A body that does not come holds its request up until the facade stops."""
    settings = FacadeSettings(port=0, drain_seconds=0)
    async with serve_facade(bus, settings) as url:
        address = httpx.URL(url)
        stream = await anyio.connect_tcp(address.host, address.port or 0)
        await stream.send(POST + b"Content-Length: 100\r\n\r\n{")
        await anyio.sleep(0.1)
    async with stream:
        reply = b"".join([piece async for piece in stream])
    assert reply.startswith(b"HTTP/1.1 503")
    assert b"retry-after" in reply
    assert b'"code":"unavailable"' in reply
