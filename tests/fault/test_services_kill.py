"""The services' agent is killed again and again, and with it the service that reads: every record once, in order."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from bus.client import Client
from bus.connection import Bus
from bus.stream import read_last, read_stream
from bus.topology import EPISODES, SERVICES
from schemas.codec import decode
from schemas.errors import KikiError, Unavailable
from schemas.services import EpisodesConsumed
from tests.agents.services.scenes import record

pytestmark = pytest.mark.anyio

RECORDS = 120
KILLS = 3


@contextmanager
def run_services(nats: str, directory: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The agent as a process of its own."""
    environment = {**os.environ, "KIKI_NATS": nats, "KIKI_CONFIG": str(directory / "none.toml")}
    with (directory / "services.log").open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "runtime", "run", "services"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


async def consume_batch(client: Client, step: int) -> int:
    """Fetch and mark once, as a service that was just started would; returns how many it marked."""
    records = await client.fetch("dream", limit=5, wait=1.0, holder="dream@here")
    if not records:
        return 0
    return (await client.mark_consumed("dream", [entry.id for entry in records], f"de-{step}")).marked


async def consume_patiently(client: Client, step: int) -> int:
    """Retry until an agent answers. A mark whose answer was lost stands: then the next fetch goes on behind it."""
    with anyio.fail_after(60):
        while True:
            try:
                return await consume_batch(client, step)
            except Unavailable:
                await anyio.sleep(0.05)
            except KikiError as error:
                if error.code != "already_consumed":
                    raise


async def read_place(bus: Bus) -> int:
    """The last record that the log has as consumed by the service; 0 while the log is empty."""
    message = await read_last(bus, SERVICES, bus.subjects.stage(EpisodesConsumed.subject, "dream"))
    return decode(EpisodesConsumed, message.data).ids[-1] if message else 0


async def read_log(bus: Bus) -> list[EpisodesConsumed]:
    subject = bus.subjects.stage(EpisodesConsumed.subject, "dream")
    return [decode(EpisodesConsumed, message.data) async for message in read_stream(bus, SERVICES, [subject])]


async def test_every_record_is_consumed_once_and_in_order(bus: Bus, nats_url: str, tmp_path: Path) -> None:
    rng = random.Random(3)
    client, step = Client(bus.client), 0
    await record(bus, [f"question {number}" for number in range(RECORDS)])
    for life in range(KILLS + 1):
        with run_services(nats_url, tmp_path) as process:
            if life == 0:
                await register_patiently(client)
            goal = RECORDS if life == KILLS else (life + 1) * RECORDS // (KILLS + 1)
            async with anyio.create_task_group() as tasks:
                if life < KILLS:
                    tasks.start_soon(kill, bus, process, goal, rng.uniform(0.0, 0.004))
                while process.poll() is None and await read_place(bus) < RECORDS:
                    with anyio.move_on_after(1.0):
                        await consume_patiently(client, step := step + 1)
    marks = await read_log(bus)
    ids = [record_id for mark in marks for record_id in mark.ids]
    assert ids == list(range(1, RECORDS + 1))
    assert (await bus.js.stream_info(EPISODES)).state.messages == RECORDS


async def register_patiently(client: Client) -> None:
    with anyio.fail_after(60):
        while True:
            try:
                await client.register("dream")
            except Unavailable:
                await anyio.sleep(0.05)
            else:
                return


async def kill(bus: Bus, process: "subprocess.Popen[bytes]", goal: int, pause: float) -> None:
    """End the agent somewhere in its work, once the log is as far as ``goal``."""
    while await read_place(bus) < goal:
        await anyio.sleep(0.001)
    await anyio.sleep(pause)
    process.send_signal(signal.SIGKILL)
