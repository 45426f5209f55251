"""Clients that keep a connection and do nothing with it, over plain sockets."""

import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import anyio
import anyio.abc
import httpx
import pytest

from runtime.facade import FacadeSettings
from schemas.chat import Message
from tests.runtime.facade.scripted import Script, chat_body
from tests.runtime.facade.test_protocol import HOST, POST

pytestmark = pytest.mark.anyio

SECONDS = 1.0
IDLE_SECONDS = 5
LIMIT = 8
GET = b"GET /v1/models HTTP/1.1\r\n" + HOST
BIG = 8 * 2**20
"""Bytes of a reply that no socket's buffers hold."""


@pytest.fixture(scope="module")
def settings() -> FacadeSettings:
    return FacadeSettings(
        port=0,
        header_timeout=SECONDS,
        body_timeout=SECONDS,
        reply_timeout=SECONDS,
        idle_timeout=IDLE_SECONDS,
        max_connections=LIMIT,
        retry_after=7,
    )


class Plain:
    """A plain connection; ``drip`` sends a byte now and then, for as long as it is open."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self.stream = stream

    async def drip(self, data: bytes) -> None:
        for byte in data:
            await self.stream.send(bytes([byte]))
            await anyio.sleep(SECONDS / 20)

    async def read(self) -> bytes:
        """All that comes until the facade closes."""
        data = bytearray()
        with suppress(anyio.BrokenResourceError):
            async for piece in self.stream:
                data += piece
        return bytes(data)

    async def read_while_dripping(self, first: bytes, data: bytes) -> tuple[bytes, float]:
        """What the facade sends to ``first`` and then ``data`` bit by bit, and the seconds until it closes."""
        started = time.monotonic()
        await self.stream.send(first)
        async with anyio.create_task_group() as tasks:

            async def drip() -> None:
                with suppress(anyio.BrokenResourceError):
                    await self.drip(data)

            tasks.start_soon(drip)
            reply = await self.read()
            tasks.cancel_scope.cancel()
        return reply, time.monotonic() - started


@pytest.fixture
async def plain(http: httpx.AsyncClient) -> AsyncIterator[Plain]:
    async with await connect(http) as stream:
        yield Plain(stream)


async def connect(http: httpx.AsyncClient) -> anyio.abc.SocketStream:
    return await anyio.connect_tcp(http.base_url.host, http.base_url.port or 0)


@pytest.mark.parametrize("first", [b"G", GET, POST + b"Content-Length: 2\r\n"])
async def test_headers_that_drip_are_refused(plain: Plain, first: bytes) -> None:
    reply, seconds = await plain.read_while_dripping(first, b"X: " + b"a" * 1000)
    assert reply.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in reply
    assert SECONDS <= seconds < SECONDS + 5


async def test_headers_that_drip_on_a_connection_in_use_are_refused(plain: Plain) -> None:
    await plain.stream.send(GET + b"\r\n")
    assert (await plain.stream.receive()).startswith(b"HTTP/1.1 200")
    reply, seconds = await plain.read_while_dripping(GET, b"X: " + b"a" * 1000)
    assert b"HTTP/1.1 408" in reply
    assert SECONDS <= seconds < SECONDS + 5


async def test_a_connection_that_says_nothing_is_closed_without_a_word(plain: Plain) -> None:
    with anyio.fail_after(SECONDS + 5):
        assert await plain.read() == b""


async def test_a_connection_that_is_idle_is_closed_without_a_word(plain: Plain) -> None:
    await plain.stream.send(GET + b"\r\n")
    with anyio.fail_after(IDLE_SECONDS + 5):
        assert (await plain.read()).count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("framing", [b"Content-Length: 10000", b"Transfer-Encoding: chunked"])
async def test_a_body_that_never_ends_is_refused(plain: Plain, framing: bytes) -> None:
    begin = b"{" if b"Length" in framing else b"2000\r\n{"
    reply, seconds = await plain.read_while_dripping(POST + framing + b"\r\n\r\n" + begin, b" " * 1000)
    assert reply.startswith(b"HTTP/1.1 408")
    assert seconds < SECONDS + 5


async def test_a_body_that_no_route_reads_ends_too(plain: Plain) -> None:
    """The reply comes at once; the rest of the body has the time of a body."""
    reply, seconds = await plain.read_while_dripping(GET + b"Content-Length: 10000\r\n\r\n", b" " * 1000)
    assert reply.startswith(b"HTTP/1.1 200")
    assert SECONDS <= seconds < SECONDS + 5


async def test_a_body_that_no_route_reads_leaves_the_connection_usable(plain: Plain) -> None:
    for _ in range(3):
        await plain.stream.send(GET + b"Content-Length: 4\r\n\r\n")
        assert (await plain.stream.receive()).startswith(b"HTTP/1.1 200")
        await plain.stream.send(b"abcd")
        await anyio.sleep(SECONDS / 2)


async def test_a_slow_turn_is_no_slow_client(http: httpx.AsyncClient, script: Script) -> None:
    script.before_answer = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def answer_late() -> None:
            await anyio.sleep(3 * SECONDS)
            assert script.before_answer is not None
            script.before_answer.set()

        tasks.start_soon(answer_late)
        assert (await http.post("/v1/chat/completions", json=chat_body())).status_code == 200


async def test_a_reply_that_nobody_reads_is_given_up(http: httpx.AsyncClient, script: Script) -> None:
    """The turn's place is free again, and the connection closed."""
    script.tokens = ("a" * 500_000,) * (BIG // 500_000)
    body = b'{"stream": true, "model": "micro-kiki-base", "messages": [{"role": "user", "content": "Go on."}]}'
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await anyio.to_thread.run_sync(raw.connect, (http.base_url.host, http.base_url.port))
        await anyio.to_thread.run_sync(raw.sendall, POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        with anyio.fail_after(15):
            await script.query_arrived.wait()
            await wait_for_no_turns(http)
    assert Message(role="user", content="Go on.") in script.queries[0].query.messages


async def wait_for_no_turns(http: httpx.AsyncClient) -> None:
    """Until the facade follows no turn any more."""
    while (await http.get("/health")).json()["turns_in_flight"]:
        await anyio.sleep(0.05)


async def test_a_full_house_takes_the_place_of_who_is_idle(http: httpx.AsyncClient) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(LIMIT + 1):
            stream = await stack.enter_async_context(await connect(http))
            await stream.send(GET + b"\r\n")
            assert (await stream.receive()).startswith(b"HTTP/1.1 200")
        await stream.send(GET + b"\r\n")
        assert (await stream.receive()).startswith(b"HTTP/1.1 200")


async def test_a_full_house_refuses_and_recovers(http: httpx.AsyncClient) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(LIMIT):
            stream = await stack.enter_async_context(await connect(http))
            await stream.send(b"G")
        await anyio.sleep(0.1)
        newcomer = await stack.enter_async_context(await connect(http))
        await newcomer.send(GET + b"\r\n")
        reply = await Plain(newcomer).read()
        assert reply.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 7" in reply
        assert b'"code":"unavailable"' in reply
    with anyio.fail_after(5):
        while True:
            async with httpx.AsyncClient(base_url=http.base_url) as client:
                if (await client.get("/v1/models")).status_code == 200:
                    return
