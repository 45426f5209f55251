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
        ([POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"], 501, "not_implemented"),
        ([POST + b"Transfer-Encoding: gzip\r\n\r\n{}"], 501, "not_implemented"),
        ([POST + b"Transfer-Encoding: chunked\r\n\r\n", b"zz\r\n"], 400, "malformed_request"),
        ([b"GET /" + b"a" * 20_000], 414, "uri_too_long"),
        ([b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 20_000], 431, "headers_too_large"),
        ([b"GET / HTTP/1.1\r\n" + HOST, *[b"X: " + b"a" * 9_000 + b"\r\n"] * 4], 431, "headers_too_large"),
    ],
)
async def test_a_message_that_is_no_http_is_refused_as_everything_else(
    http: httpx.AsyncClient,
    script: Script,
    monkeypatch: pytest.MonkeyPatch,
    pieces: list[bytes],
    status: int,
    code: str,
) -> None:
    monkeypatch.setattr("runtime.facade.protocol.DRAIN_SECONDS", 0.4)
    sent_status, headers, body = await exchange(http, *pieces)
    assert (sent_status, headers["connection"], headers["content-type"]) == (status, "close", "application/json")
    assert len(body) == int(headers["content-length"])
    error = json.loads(body)["error"]
    kind = "server_error" if status >= 500 else "invalid_request_error"
    assert (error["code"], error["type"], error["param"]) == (code, kind, None)
    assert error["message"]
    assert script.queries == []


SMUGGLED = b"GET /v1/models HTTP/1.1\r\n" + HOST + b"\r\n"
"""A request behind another one, which may be read as the other one's body."""

AMBIGUOUS: tuple[list[bytes], ...] = (
    [POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
    [POST + b"Content-Length: 0\r\nContent-Length: 51\r\n\r\n"],
    [POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"],
    [POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}"],
    [POST + b"Content-Length: 2\r\ncontent-LENGTH: 02\r\n\r\n{}"],
    [POST + b"Content-Length: 2, 2\r\n\r\n{}"],
    [POST + b"Content-Length: 2\r\n , 2\r\n\r\n{}"],
    [POST + b"Content-Length : 2\r\n\r\n{}"],
    [POST + b"Content-Length: +2\r\n\r\n{}"],
    [POST + b"Content-Length: 2\r\n\tX: 1\r\n\r\n{}"],
    [POST + b"X: 1\rContent-Length: 2\r\n\r\n{}"],
    [POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"],
    [b"GET /v1/models HTTP/1.1\n" + HOST + b"\r\n"],
    [b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\n\r\n"],
    [b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\n"],
    [b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\nX: 1\r\n\r\n"],
    [b"GET /v1/models HTTP/1.1\r\n", b"Host: 127.0.0.1\n", b"\r\n"],
    [POST + b"Transfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n"],
    [POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\n0\r\n\r\n"],
    [POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\n"],
    [POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", b"0\r", b"\n", b"\n"],
    [POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: 1\n\n"],
)
"""Messages whose end others may see in another place."""


async def test_a_message_that_could_end_in_two_places_is_answered_once(http: httpx.AsyncClient, script: Script) -> None:
    """And the connection is closed: nothing behind it is read."""
    replies: list[tuple[list[bytes], int, bytes]] = []

    async def send(pieces: list[bytes]) -> None:
        *first, last = pieces
        status, _, rest = await exchange(http, *first, last + SMUGGLED, SMUGGLED)
        replies.append((pieces, status, rest))

    async with anyio.create_task_group() as tasks:
        for pieces in AMBIGUOUS:
            tasks.start_soon(send, pieces)
    for pieces, status, rest in replies:
        assert (status, json.loads(rest)["error"]["code"]) == (400, "malformed_request"), pieces
    assert len(replies) == len(AMBIGUOUS)
    assert script.queries == []


async def test_a_refused_message_ends_what_was_asked_before_it_in_order(http: httpx.AsyncClient) -> None:
    bad = POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}"
    status, _, rest = await exchange(http, SMUGGLED + bad + SMUGGLED)
    assert status == 200
    assert rest.count(b"HTTP/1.1 ") == rest.count(b"HTTP/1.1 400") == 1


@pytest.mark.parametrize(
    "request_bytes",
    [
        POST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: Chunked\r\n\r\n%x;a=b\r\n%s\r\n0\r\nX-Sum: 1\r\n\r\n",
        POST + b"Content-Length: 0%d\r\n\r\n%s",
    ],
)
async def test_a_message_of_one_length_is_served(http: httpx.AsyncClient, script: Script, request_bytes: bytes) -> None:
    """In one piece, and byte by byte: what follows it is the next request."""
    body = json.dumps(chat_body()).encode()
    whole = request_bytes % (len(body), body)
    last = SMUGGLED.replace(HOST, HOST + b"Connection: close\r\n")
    for pieces in ([whole + last], [bytes([byte]) for byte in whole[-40:]]):
        first = whole[:-40] if len(pieces) > 1 else b""
        status, _, rest = await exchange(http, first, *pieces, *([last] if first else []))
        assert (status, rest.count(b"HTTP/1.1 200")) == (200, 1)


@pytest.mark.parametrize("fault", [b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", b"no colon\r\n\r\n"])
async def test_a_message_that_is_no_http_is_refused_in_the_words_of_its_route(
    http: httpx.AsyncClient, fault: bytes
) -> None:
    _, _, body = await exchange(http, b"POST /v1/messages HTTP/1.1\r\n" + HOST + fault)
    refusal = json.loads(body)
    assert (refusal["type"], refusal["error"]["type"]) == ("error", "invalid_request_error")


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
