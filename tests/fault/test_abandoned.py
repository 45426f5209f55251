"""A turn whose HTTP client cannot get the answer any more is cancelled, and leaves no episode: a retry leaves one."""

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import psutil
import pytest

from bus import record
from bus.connection import Bus, connect
from bus.stream import read_stream
from bus.topology import TURNS
from bus.turns.events import find_end
from schemas.envelope import new_turn
from schemas.events import AnswerReady, QueryReceived, TurnCancelled
from tests.e2e.conftest import Runtime, start, stop
from tests.e2e.test_cancel import count_decoded
from tests.fault.test_kill import publish

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

SECONDS = 60.0


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory, small_model: Path, embedder_path: Path) -> Iterator[Runtime]:
    running = start(tmp_path_factory.mktemp("abandoned"))
    try:
        yield running
    finally:
        stop(running)


def body(question: str, *, max_tokens: int = 1000, stream: bool = False) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"model": "micro-kiki-fast", "messages": messages, "max_tokens": max_tokens, "stream": stream}


def find_process(runtime: Runtime, name: str) -> psutil.Process:
    """The one process of the runtime whose command line holds ``name``."""
    family = psutil.Process(runtime.process.pid).children(recursive=True)
    (found,) = [process for process in family if name in process.cmdline()[-1] or process.name() == name]
    return found


async def newest_turn(bus: Bus) -> str:
    """The id of the question that was stored last."""
    subjects = [bus.subjects.stage(QueryReceived.subject)]
    turn_ids = [message.subject.rpartition(".")[2] async for message in read_stream(bus, TURNS, subjects)]
    return turn_ids[-1] if turn_ids else ""


async def wait_for_tokens(runtime: Runtime, bus: Bus, *, after: str) -> str:
    """Wait until a turn that came after ``after`` is being decoded; returns its id."""
    with anyio.fail_after(SECONDS):
        while True:
            turn_id = await newest_turn(bus)
            if turn_id != after and (await anyio.to_thread.run_sync(count_decoded, runtime))[1] > 0:
                return turn_id
            await anyio.sleep(0.05)
    raise AssertionError


async def wait_until_cancelled(runtime: Runtime, bus: Bus, turn_id: str) -> None:
    """Wait until the turn has ended so, and the worker decodes nothing."""
    with anyio.fail_after(SECONDS):
        while (end := await find_end(bus, turn_id)) is None:
            await anyio.sleep(0.1)
        while (await anyio.to_thread.run_sync(count_decoded, runtime))[1] > 0:
            await anyio.sleep(0.1)
    assert isinstance(end, TurnCancelled), end


async def count_questions(bus: Bus) -> Counter[str]:
    return Counter([episode.question async for episode in record.read_episodes(bus)])


async def ask_until_answered(runtime: Runtime, question: str) -> None:
    """As stock clients do: again after a refusal or a broken connection, here without an Idempotency-Key."""
    async with httpx.AsyncClient(base_url=runtime.http, timeout=SECONDS) as http:
        with anyio.fail_after(SECONDS):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    reply = await http.post("/v1/chat/completions", json=body(question, max_tokens=8))
                    if reply.status_code == 200:
                        return
                    assert reply.status_code in (429, 503, 504), reply.text
                await anyio.sleep(0.2)


async def check_one_record(bus: Bus, question: str) -> None:
    with anyio.fail_after(SECONDS):
        while not (await count_questions(bus))[question]:
            await anyio.sleep(0.1)
    await anyio.sleep(1.0)  # a second record would come now
    assert (await count_questions(bus))[question] == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_turn_whose_facade_is_killed_is_cancelled_and_a_retry_is_recorded_once(
    runtime: Runtime, stream: bool
) -> None:
    question = f"Write a long story about a village. {stream=}"
    async with connect(runtime.bus, name="watcher") as bus:
        before = await newest_turn(bus)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(post_and_lose, runtime, body(question, stream=stream))
            turn_id = await wait_for_tokens(runtime, bus, after=before)
            find_process(runtime, "facade").kill()
        await ask_until_answered(runtime, question)
        await wait_until_cancelled(runtime, bus, turn_id)
        await check_one_record(bus, question)


async def post_and_lose(runtime: Runtime, request: dict[str, Any], *, patience: float = SECONDS) -> None:
    """Ask, and get no answer."""
    with contextlib.suppress(httpx.TransportError):
        async with httpx.AsyncClient(base_url=runtime.http, timeout=patience) as http:
            reply = await http.post("/v1/chat/completions", json=request)
            assert "[DONE]" not in reply.text
            assert "finish_reason" not in reply.text or '"finish_reason":null' in reply.text


async def test_a_client_that_leaves_while_the_broker_is_frozen_is_not_recorded(runtime: Runtime) -> None:
    """Its facade cannot say that it left. Once the broker is back, nobody awaits the turn."""
    question = "Write a long story about a frozen river."
    broker = find_process(runtime, "nats-server")
    async with connect(runtime.bus, name="watcher") as bus:
        before = await newest_turn(bus)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(post_and_lose, runtime, body(question), patience=5.0))
            turn_id = await wait_for_tokens(runtime, bus, after=before)
            os.kill(broker.pid, signal.SIGSTOP)
            try:
                await anyio.sleep(8.0)  # the client leaves, and its facade's try to say so passes
            finally:
                os.kill(broker.pid, signal.SIGCONT)
        await wait_until_cancelled(runtime, bus, turn_id)
        await ask_until_answered(runtime, question)
        await check_one_record(bus, question)


async def test_equal_requests_without_a_key_are_two_turns(runtime: Runtime) -> None:
    question = "Name one colour, please."
    async with connect(runtime.bus, name="watcher") as bus:
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(ask_until_answered, runtime, question)
        with anyio.fail_after(SECONDS):
            while (await count_questions(bus))[question] < 2:
                await anyio.sleep(0.1)


async def test_a_turn_asked_on_the_bus_goes_on_though_nobody_listens(runtime: Runtime) -> None:
    async with connect(runtime.bus, name="asker") as bus:
        envelope = new_turn(tenant="fault", timeout=SECONDS)
        await publish(bus, envelope, level="fast", question="Is anybody there?")
    async with connect(runtime.bus, name="watcher") as bus:
        await check_one_record(bus, "Is anybody there?")
        assert isinstance(await find_end(bus, envelope.turn_id), AnswerReady)
