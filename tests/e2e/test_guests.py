"""Agents of other people beside a live runtime: started by ``kiki run`` and ``kiki up``, in ours' place and between."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import httpx
import pytest
from nats.errors import NoRespondersError

from bus.broker.ownership import find_holder
from bus.connection import connect
from tests.e2e.conftest import Runtime, launch, start, stop, wait_until_ready

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
RUN = ("-m", "runtime", "run")
POLISH = """
from bus.agent import BaseAgent
from bus.handler import Handler
from msgspec.structs import replace
from schemas.events import QueryRouted

class Polish(BaseAgent):
    name = "polish"

    def handlers(self):
        return [Handler(stage="polish", event=QueryRouted, handle=self.add)]

    async def add(self, event, delivery):
        return replace(event, route=replace(event.route, intent="polished"))
"""


@contextmanager
def beside(runtime: Runtime, *arguments: str, folder: Path = EXAMPLES) -> Iterator[subprocess.Popen[bytes]]:
    """A program of Python, started when the broker is there."""
    end = time.monotonic() + 60
    while (holder := find_holder(runtime.data_dir)) is None or not holder.url:
        assert time.monotonic() < end, "no broker came"
        time.sleep(0.1)
    guest = subprocess.Popen([sys.executable, *arguments], cwd=folder, env=runtime.environment)
    try:
        yield guest
    finally:
        guest.terminate()
        guest.wait(15)


def ask(runtime: Runtime, text: str, **fields: object) -> httpx.Response:
    body = {"model": "micro-kiki", "messages": [{"role": "user", "content": text}], **fields}
    return httpx.post(f"{runtime.http}/v1/chat/completions", json=body, timeout=60)


def read_turn(runtime: Runtime, reply: httpx.Response) -> str:
    return httpx.get(f"{runtime.http}/v1/turns/{reply.headers['x-turn-id']}", timeout=10).text


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Runtime]]:
    """Runtimes that the test has started, which end with it."""
    runtimes: list[Runtime] = []
    yield runtimes
    for runtime in runtimes:
        stop(runtime)


def test_an_own_router_takes_the_place_of_ours(tmp_path: Path, started: list[Runtime]) -> None:
    tables = {"router": {"external": True, "level": "full"}, "catfish": {"external": False}}
    runtime = launch(tmp_path, "--without", "catfish", module="tests.fault.scripted", KIKI_AGENTS=json.dumps(tables))
    started.append(runtime)
    with beside(runtime, *RUN, "word_router:WordRouter", folder=EXAMPLES / "agent_stage"):
        wait_until_ready(runtime)
        began = time.monotonic()
        reply = ask(runtime, "Write a query that counts rows")
        assert reply.status_code == 200, reply.text
        assert time.monotonic() - began < 10.0  # of the 15 s that an absent catfish would be waited for
        turn = json.loads(read_turn(runtime, reply))
        assert "sql" in json.dumps(turn)
    answer = httpx.get(f"{runtime.http}/ready", timeout=10)
    assert (answer.status_code, "router (does not answer)" in answer.text) == (503, True)


SILENT_ROUTER = """
import asyncio, json, os
import nats
from bus.access.login import find_login

async def main():
    url = f"nats://127.0.0.1:{os.environ['KIKI_NATS_PORT']}"
    nc = await nats.connect(url, **find_login(url).options())
    js = nc.jetstream()
    inbox = await js.pull_subscribe("kiki.query.received.*", durable="router", stream="TURNS")
    while True:
        try:
            messages = await inbox.fetch(1, timeout=30)
        except TimeoutError:
            continue
        for message in messages:
            event = json.loads(message.data)
            plan = {"level": "fast", "recall": False}
            event["route"] = {"domains": [], "adapters": [], "intent": "silent", "plan": plan}
            turn = event["envelope"]["turn_id"]
            headers = {"Nats-Msg-Id": f"{turn}:query.routed"}
            await js.publish(f"kiki.query.routed.{turn}", json.dumps(event).encode(), headers=headers)
            await message.ack()

asyncio.run(main())
"""


def test_a_router_that_knows_nats_alone_is_ready_when_it_is_declared(tmp_path: Path, started: list[Runtime]) -> None:
    tables = {"router": {"external": True}}
    runtime = launch(tmp_path, module="tests.fault.scripted", KIKI_AGENTS=json.dumps(tables))
    started.append(runtime)
    with beside(runtime, "-c", SILENT_ROUTER):
        wait_until_ready(runtime)
        reply = ask(runtime, "Why?")
        assert (reply.status_code, "silent" in read_turn(runtime, reply)) == (200, True), reply.text


def test_an_example_counts_every_answer_and_is_asked(tmp_path: Path, started: list[Runtime]) -> None:
    runtime = start(tmp_path, module="tests.fault.scripted")
    started.append(runtime)
    first = ask(runtime, "Why?")
    with beside(runtime, *RUN, "word_counter:WordCounter", folder=EXAMPLES / "agent_minimal"):
        second = ask(runtime, "And why else?")
        words = sum(len(reply.json()["choices"][0]["message"]["content"].split()) for reply in (first, second))
        end = time.monotonic() + 15
        while (counted := request_count(runtime)) != {"answers": 2, "words": words}:
            assert time.monotonic() < end, counted
            time.sleep(0.2)


def request_count(runtime: Runtime) -> dict[str, int]:
    async def request() -> bytes:
        async with connect(runtime.bus, name="tests") as bus:
            with contextlib.suppress(NoRespondersError):  # it is not there yet
                reply: bytes = (await bus.client.request("kiki.svc.words.count", b"", timeout=5)).data
                return reply
            return b"{}"

    with ThreadPoolExecutor(1) as pool:  # a fixture's event loop may run in this thread
        return dict(json.loads(pool.submit(partial(anyio.run, request, backend="asyncio")).result()))


def test_a_guest_of_the_settings_stands_after_the_router(tmp_path: Path, started: list[Runtime]) -> None:
    (tmp_path / "polish_guest.py").write_text(POLISH)
    tables = {"polish": {"class": "polish_guest:Polish", "after": "router"}}
    runtime = start(tmp_path, module="tests.fault.scripted", KIKI_AGENTS=json.dumps(tables), PYTHONPATH=paths(tmp_path))
    started.append(runtime)
    reply = ask(runtime, "Why?")
    assert reply.status_code == 200, reply.text
    assert "polished" in read_turn(runtime, reply)


def paths(*more: Path) -> str:
    return ":".join(map(str, (*more, *sys.path)))
