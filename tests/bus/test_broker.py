"""The embedded broker: started, watched, refused with a mend, stopped without a trace."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import nats.errors
import psutil
import pytest

from bus import broker as server
from bus.broker import ownership
from bus.connection import Bus, BusSettings, connect
from bus.handler import Delivery
from bus.topology import EPISODES
from schemas.errors import SetupError, Unavailable
from schemas.events import Event, QueryReceived, TurnCancelled
from tests.bus.conftest import eventually, query, reply, run_consumer

pytestmark = pytest.mark.anyio

RUN = """
import pathlib, signal, sys, anyio
from bus.broker import run_broker

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # 'nohup' has it ignored by all that it starts

async def run():
    async with run_broker(pathlib.Path(sys.argv[1]), port=0):
        await anyio.sleep_forever()

anyio.run(run)
"""
"""A process with a broker of its own."""


async def find_brokers(directory: Path) -> list[psutil.Process]:
    """Every nats-server on this machine whose configuration lies under the directory."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name().startswith("nats-server") and str(directory) in " ".join(process.cmdline()):
                found.append(process)
    return found


async def is_without_broker(directory: Path) -> bool:
    return not await find_brokers(directory)


async def find_url(directory: Path) -> str | None:
    """The address that the holder of the directory has written down."""
    holder = ownership.find_holder(directory)
    return holder.url if holder else None


async def test_the_broker_listens_on_loopback_and_syncs_every_write(broker: server.EmbeddedBroker) -> None:
    variables = await server.read_varz(broker.monitor)
    assert variables["host"] == "127.0.0.1"
    assert variables["jetstream"]["config"]["sync_always"] is True
    assert variables["max_payload"] == server.MAX_PAYLOAD


async def test_the_broker_is_gone_after_the_context(tmp_path: Path) -> None:
    async with server.run_broker(tmp_path, port=0) as running_server:
        pids = [running_server.pid, running_server.process.pid]
        assert all(psutil.pid_exists(pid) for pid in pids)
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_a_busy_port_says_how_to_mend_it(broker: server.EmbeddedBroker, tmp_path: Path) -> None:
    port = int(broker.url.rsplit(":", 1)[1])
    with pytest.raises(SetupError, match=r"port is busy.*--nats"):
        await server.start(tmp_path, port=port)


async def test_a_broker_left_without_its_watcher_is_stopped_by_the_next_holder(tmp_path: Path) -> None:
    leftover = await server.start(tmp_path, port=0)
    leftover.process.kill()
    await leftover.process.wait()
    assert psutil.pid_exists(leftover.pid)
    async with server.run_broker(tmp_path, port=0) as fresh:
        assert fresh.pid != leftover.pid
        assert not psutil.pid_exists(leftover.pid)


async def test_a_second_run_on_a_store_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async with server.run_broker(tmp_path, port=0) as first:
        with pytest.raises(SetupError, match=f"is held by 'a broker' .process {os.getpid()}, broker {first.url}"):
            async with server.run_broker(tmp_path, port=0):
                pass
        assert first.process.returncode is None
        assert (await server.read_varz(first.monitor))["port"] == int(first.url.rsplit(":", 1)[1])


@asynccontextmanager
async def run_process(command: list[str], **options: Any) -> AsyncIterator[anyio.abc.Process]:
    """A process that ends with the context, also when what is expected of it does not come."""
    async with await anyio.open_process(command, **options) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
async def test_a_broker_ends_with_the_process_that_started_it(tmp_path: Path, number: signal.Signals) -> None:
    async with run_process([sys.executable, "-c", RUN, str(tmp_path)], stderr=None) as supervisor:
        await eventually(lambda: find_url(tmp_path), seconds=60)
        (broker,) = await find_brokers(tmp_path)
        supervisor.send_signal(number)
        with anyio.fail_after(30):
            await supervisor.wait()
        await eventually(lambda: is_without_broker(tmp_path), seconds=10)
        assert not broker.is_running()
    assert ownership.find_holder(tmp_path) is None
    async with server.run_broker(tmp_path, port=0) as fresh:
        assert await server.read_sync_interval(fresh.monitor) == "always"


async def test_a_broker_that_does_not_end_when_it_is_asked_to_is_killed(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-I",
        "-S",
        str(server.WATCHER),
        "/bin/sh",
        "-c",
        "trap '' TERM; echo up; while :; do sleep 0.1; done",
    ]
    async with run_process(command, stdin=subprocess.PIPE, start_new_session=True) as watcher:
        assert watcher.stdin is not None
        assert watcher.stdout is not None
        assert await watcher.stdout.receive() == b"up\n"
        await watcher.stdin.aclose()
        with anyio.fail_after(10):
            assert await watcher.wait() == 128 + signal.SIGKILL


async def test_the_watcher_passes_the_exit_code_on_and_is_small(tmp_path: Path) -> None:
    async with await anyio.open_process(
        [sys.executable, "-I", "-S", str(server.WATCHER), "/bin/sh", "-c", "exit 7"], stdin=subprocess.PIPE
    ) as watcher:
        assert await watcher.wait() == 7
    async with server.run_broker(tmp_path, port=0) as running:
        assert psutil.Process(running.process.pid).memory_info().rss < 16 * 2**20


async def test_a_missing_broker_is_reported_in_one_clear_line() -> None:
    with pytest.raises(Unavailable, match=r"no NATS server answers at nats://127\.0\.0\.1:9.*kiki up"):
        async with connect(BusSettings(url="nats://127.0.0.1:9", connect_timeout=1.0), name="x"):
            pass


async def test_consumers_come_back_and_episodes_remain_after_a_broker_restart(tmp_path: Path) -> None:
    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        return reply(event)

    first = await server.start(tmp_path, port=0)
    port = int(first.url.rsplit(":", 1)[1])
    async with connect(BusSettings(url=first.url), name="survivor") as bus:
        await bus.reconcile()
        async with run_consumer(bus, handle, concurrency=2):
            await bus.js.publish(bus.subjects.stage("episode.recorded", "kept"), b"{}")
            os.kill(first.pid, signal.SIGKILL)
            await first.process.wait()
            async with server.run_broker(tmp_path, port=port):
                event = query(timeout=60)
                await eventually(lambda: _try_to_publish(bus, event), seconds=20)
                await eventually(lambda: bus.last(TurnCancelled, event.envelope.turn_id), seconds=20)
                assert (await bus.js.stream_info(EPISODES)).state.messages == 1


async def _try_to_publish(bus: Bus, event: Event) -> bool:
    try:
        await bus.reconcile()
        return await bus.publish(event)
    except (nats.errors.Error, Unavailable):
        return False
