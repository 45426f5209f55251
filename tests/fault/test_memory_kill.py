"""The memory agent is killed in the middle of many answers, and again under a broker that starts anew."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import pytest

from agents.memory.progress import RECORD, TAKEN
from bus import broker as server
from bus.connection import Bus, BusSettings, connect
from bus.topology import ANSWERS, EPISODES
from schemas.calls import MEMORY_VERIFY
from schemas.memory import VerifyReply, VerifyRequest
from tests.agents.memory.memories import eventually
from tests.agents.memory.scenes import answer_ready, turn, unit

pytestmark = pytest.mark.anyio
SIZE = 768
REDELIVERY = {"projection_ack_wait": 4.0}
"""Settings of a memory that is killed: what it held comes again after seconds, as in the stages of a turn."""

SECONDS = 60.0
"""Seconds until a published answer is on disk, behind all those that are published at the same time."""


@contextmanager
def run_memory(nats: str, directory: Path, small_model: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The memory agent as a process of its own, killed at the end."""
    environment = {
        **os.environ,
        "KIKI_NATS": nats,
        "KIKI_DATA_DIR": str(directory),
        "KIKI_CONFIG": str(directory / "none.toml"),
        "KIKI_MODEL": str(small_model),
        "KIKI_AGENTS": json.dumps({"memory": REDELIVERY}),
    }
    with (directory / "memory.log").open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "runtime", "run", "memory"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


async def count_recorded(bus: Bus) -> int:
    return int((await bus.js.stream_info(EPISODES)).state.messages)


async def wait_for_agreement(bus: Bus, *, least: int = 0) -> VerifyReply:
    """Verify once no answer waits for the record, no record waits for the stores, and ``least`` are recorded.

    An answer that a dead memory held is delivered again only after the consumer's ``ack_wait``.
    """

    async def verify_if_settled() -> VerifyReply | None:
        try:
            for name in (RECORD, TAKEN):
                write = await bus.js.consumer_info(ANSWERS, name)
                if write.num_pending or write.num_ack_pending:
                    return None
            verification = await bus.request(MEMORY_VERIFY, VerifyRequest(), timeout=10.0)
        except Exception:  # the agent is just starting
            return None
        return verification if verification.waiting == 0 and verification.recorded >= least else None

    reply = await eventually(verify_if_settled, seconds=90)
    assert isinstance(reply, VerifyReply)
    return reply


async def publish_answers(bus: Bus, count: int) -> None:
    """Answer ``count`` turns at once."""
    async with anyio.create_task_group() as tasks:
        for number in range(count):
            event = answer_ready(
                turn(session=f"s{number % 7}", timeout=300), unit(number, SIZE), text=f"question {number}"
            )
            tasks.start_soon(bus.publish, event)


async def kill_in_the_middle(bus: Bus, process: "subprocess.Popen[bytes]", after: int) -> None:
    async def enough_recorded() -> bool:
        return await count_recorded(bus) >= after

    await eventually(enough_recorded, seconds=90)
    process.send_signal(signal.SIGKILL)
    await anyio.to_thread.run_sync(process.wait)


@asynccontextmanager
async def run_broker(directory: Path) -> AsyncIterator[Bus]:
    """A broker on the directory's store, and a bus on it."""
    async with (
        server.run_broker(directory / "nats", port=0) as running,
        connect(BusSettings(url=running.url), name="test") as bus,
    ):
        await bus.reconcile()
        yield bus


async def check_survival(tmp_path: Path, small_model: Path, turns: int) -> None:
    async with (
        server.run_broker(tmp_path / "nats", port=0) as broker,
        connect(BusSettings(url=broker.url, publish_timeout=SECONDS), name="t") as bus,
    ):
        await bus.reconcile()
        with run_memory(bus.settings.url, tmp_path, small_model) as first:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(publish_answers, bus, turns)
                tasks.start_soon(kill_in_the_middle, bus, first, turns // 4)
        with run_memory(bus.settings.url, tmp_path, small_model) as second:

            async def all_recorded() -> bool:
                return await count_recorded(bus) == turns

            await eventually(all_recorded, seconds=90)
            verification = await wait_for_agreement(bus)
            assert (verification.recorded, verification.agrees) == (turns, True)
            second.send_signal(signal.SIGKILL)
    async with (
        server.run_broker(tmp_path / "nats", port=0) as broker,
        connect(BusSettings(url=broker.url), name="t") as bus,
    ):
        await bus.reconcile()
        with run_memory(bus.settings.url, tmp_path, small_model):
            verification = await wait_for_agreement(bus)
            assert (verification.recorded, verification.agrees) == (turns, True)


async def test_every_answer_is_remembered_once_though_the_memory_dies(tmp_path: Path, small_model: Path) -> None:
    await check_survival(tmp_path, small_model, 60)


@pytest.mark.soak
async def test_five_hundred_answers_are_remembered_once(tmp_path: Path, small_model: Path) -> None:
    await check_survival(tmp_path, small_model, 500)
