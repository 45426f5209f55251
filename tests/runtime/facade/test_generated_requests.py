"""A facade in a process of its own under requests that hypothesis makes up.

Every reply comes in time, what is refused is an error object in the words of its route, a status of 500 and above may
be tried again, and the process's memory stays flat.
"""

import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.to_thread
import httpx
import hypothesis
import psutil
import pytest
from anyio.abc import ObjectReceiveStream
from hypothesis import HealthCheck, Phase
from jsonschema import Draft202012Validator

from runtime.facade.errors import RETRYABLE, speaks_anthropic
from tests.e2e.conftest import free_port
from tests.fault.cluster import spawn
from tests.runtime.facade.conformance import check_reply, validator
from tests.runtime.facade.generated import CLIENT_SECONDS, Generated, requests
from tests.runtime.facade.scripted import Script
from tests.runtime.facade.test_strange_bytes import SECONDS

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(3600)]

AT_ONCE = 32
"""Connections on which they are sent side by side."""
WARM = 0.25
"""The part of the requests after which the process has loaded and kept what it will."""
GROWTH = 24 * 2**20
"""Bytes by which it may grow from then on; its threads' pools account for some of them."""

BOTH = [validator("ErrorReply"), validator("AnthropicErrorReply")]


class Served:
    """The facade's process and address, and what was sent there."""

    def __init__(self, url: str, process: psutil.Process) -> None:
        self.url, self._process = url, process
        self.statuses: Counter[int] = Counter()
        self.slowest = 0.0

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return int(self._process.memory_info().rss)

    async def send_all(self, made: ObjectReceiveStream[Generated]) -> None:
        """Send the requests one by one and check their replies."""
        async with made:
            async for request in made:
                await self._send(request)

    async def _send(self, request: Generated) -> None:
        started = time.monotonic()
        address = httpx.URL(self.url)
        data, is_late = bytearray(), True
        with anyio.move_on_after(SECONDS) as scope:
            async with await anyio.connect_tcp(address.host, address.port or 0) as stream:
                with contextlib.suppress(anyio.BrokenResourceError):
                    await stream.send(request.data)
                    is_late = time.monotonic() - started > CLIENT_SECONDS / 2
                    async for piece in stream:
                        data += piece
        assert not scope.cancelled_caught, (request, data[:500])
        if is_late and not data:  # this process had no time between connecting and sending
            await self._send(request)
            return
        self.slowest = max(self.slowest, time.monotonic() - started)
        self.statuses[check_bytes(request, bytes(data))] += 1


def check_bytes(request: Generated, data: bytes) -> int:
    """Raise AssertionError where the reply is not as promised; returns its status."""
    assert data.startswith(b"HTTP/1.1 "), (request, data[:200])
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    status, headers = int(first.split()[1]), {}
    for line in lines:
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    assert status < 500 or status in RETRYABLE or status == 501, (request, data[:500])
    assert ("retry-after" in headers) == (status in RETRYABLE), (request, data[:500])
    if request.data.startswith(b"HEAD "):
        body = b""
    elif status >= 400:
        body = body[: int(headers["content-length"])]  # what follows answers what was left of a broken request
        check_shape(request, json.loads(body))
    if request.is_whole and "x-request-id" in headers:
        check_reply(request.method, request.path, status, headers, unchunk(headers, body))
    return status


def check_shape(request: Generated, error: object) -> None:
    """An error is OpenAI's, on Anthropic's routes theirs; on what is broken it is one of the two."""
    shapes: list[Draft202012Validator] = BOTH
    if request.is_whole:
        shapes = [BOTH[speaks_anthropic(request.path)]]
    assert any(shape.is_valid(error) for shape in shapes), (request, error)


def unchunk(headers: dict[str, str], body: bytes) -> bytes:
    """A body without the lengths of its chunks."""
    if headers.get("transfer-encoding") != "chunked":
        return body
    chunks = bytearray()
    while body:
        length, _, body = body.partition(b"\r\n")
        chunks += body[: int(length, 16)]
        body = body[int(length, 16) + 2 :]
    return bytes(chunks)


@contextlib.contextmanager
def run_facade(nats_url: str, directory: Path) -> Iterator[Served]:
    """The facade's process, which is ended behind it."""
    port = free_port()
    times = dict.fromkeys(("header_timeout", "body_timeout", "idle_timeout"), CLIENT_SECONDS)
    table = {"expected_agents": ["embedder"], **times}
    variables = {
        "KIKI_NATS": nats_url,
        "KIKI_DATA_DIR": str(directory / "data"),
        "KIKI_CONFIG": str(directory / "none.toml"),
        "KIKI_PORT": str(port),
        "KIKI_ADMIN_KEY": "secret",
        "KIKI_TURN_TIMEOUT": "5",
        "KIKI_AGENTS": json.dumps({"facade": table}),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    process = spawn([sys.executable, "-m", "runtime.cli", "run", "facade"], directory / "facade.log", **variables)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while not answers(url):
            assert process.poll() is None, (directory / "facade.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield Served(url, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(20)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/models").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
async def served(
    bus: object, nats_url: str, tmp_path: Path, script: Script, example_services: None
) -> AsyncIterator[Served]:
    with run_facade(nats_url, tmp_path) as running:
        yield running


async def send_generated(served: Served, count: int, *, derandomize: bool) -> None:
    """Send so many requests, a few at once; hypothesis makes them in a thread of its own."""
    to_send, made = anyio.create_memory_object_stream[Generated]()

    @hypothesis.settings(
        max_examples=count,
        derandomize=derandomize,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(requests())
    def make(request: Generated) -> None:
        anyio.from_thread.run(to_send.send, request)

    async with anyio.create_task_group() as tasks, to_send:
        with made:
            for _ in range(AT_ONCE):
                tasks.start_soon(served.send_all, made.clone())
        await anyio.to_thread.run_sync(make)
        to_send.close()


async def test_generated_bytes_are_answered_in_time_and_in_shape(served: Served) -> None:
    await send_generated(served, 600, derandomize=True)
    print(f"{dict(served.statuses)}, slowest {served.slowest:.1f} s")


@pytest.mark.soak
async def test_twenty_thousand_requests_leave_the_memory_flat(served: Served) -> None:
    parts, total, memory = 8, 20_000, []
    started = time.monotonic()
    for _ in range(parts):
        await send_generated(served, total // parts, derandomize=False)
        memory.append(served.memory)
        count = sum(served.statuses.values())
        print(f"{count} requests, {time.monotonic() - started:.0f} s, {memory[-1] / 2**20:.1f} MiB", flush=True)
    print(f"{dict(served.statuses)}, slowest {served.slowest:.1f} s")
    assert count >= total
    assert memory[-1] - memory[int(WARM * parts) - 1] < GROWTH
