"""The supervisor with real processes: it restarts what dies, and leaves nothing behind."""

import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import psutil
import pytest
from structlog.testing import capture_logs

from bus import broker
from bus.agent import gather_reports
from bus.broker.ownership import find_holder
from bus.connection import connect
from runtime.composition import bus_settings
from runtime.heartbeat import HEARTBEAT, Heartbeat
from runtime.settings import load_settings
from runtime.soak.isolation import fill_disk
from runtime.supervisor import STEADY_SECONDS, Deaths, Supervisor
from schemas.errors import SetupError
from tests.small_disk import mount_small_disk

pytestmark = pytest.mark.anyio

LIGHT = ("catfish", "services")
"""Agents that load no model."""


@asynccontextmanager
async def run_supervisor(directory: Path, names: tuple[str, ...] = LIGHT, **settings: Any) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(load_settings(data_dir=directory, nats_port=0, **settings), names=names)
    async with supervisor.running():
        yield supervisor


async def read_pids(supervisor: Supervisor) -> dict[str, int]:
    """The pids of all agents, once all of them report."""
    with anyio.fail_after(60):
        async with connect(bus_settings(supervisor.settings), name="test") as bus:
            while True:
                pid_by_agent = {report.status.agent: report.pid for report in await gather_reports(bus)}
                if set(pid_by_agent) == set(supervisor.names):
                    return pid_by_agent
    raise AssertionError


async def test_a_dead_agent_is_started_again_and_no_process_is_left_at_the_end(tmp_path: Path) -> None:
    async with run_supervisor(tmp_path) as supervisor:
        before = await read_pids(supervisor)
        assert supervisor.broker is not None
        everything = [supervisor.broker.pid, supervisor.broker.process.pid, *before.values()]
        os.kill(before["catfish"], signal.SIGKILL)
        with anyio.fail_after(30):
            while supervisor.children["catfish"].deaths.count == 0:
                await anyio.sleep(0.05)
        after = await read_pids(supervisor)
        assert after["catfish"] != before["catfish"]
        assert after["services"] == before["services"]
        everything.append(after["catfish"])
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert [pid for pid in everything if psutil.pid_exists(pid)] == []


async def test_a_disk_that_fills_up_under_a_starting_broker_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mount_small_disk(tmp_path / "disk", 60) as disk, ExitStack() as full:
        async with run_supervisor(disk / "data", ("services",)) as supervisor:
            await read_pids(supervisor)
            assert supervisor.broker is not None
            dead, start = supervisor.broker, broker.start

            async def start_without_room(*args: Any, **options: Any) -> broker.EmbeddedBroker:
                """The room that was looked for is taken before the first file is written; the next look finds none."""
                monkeypatch.setattr(broker, "start", start)
                full.enter_context(fill_disk(disk))
                return await start(*args, **options)

            monkeypatch.setattr(broker, "start", start_without_room)
            with capture_logs() as logs:
                os.kill(dead.pid, signal.SIGKILL)
                with anyio.fail_after(30):
                    while not any(log["event"] == "disk full" for log in logs):
                        await anyio.sleep(0.05)
                full.close()
                with anyio.fail_after(30):
                    while supervisor.broker.pid == dead.pid:
                        await anyio.sleep(0.05)
            await read_pids(supervisor)
        assert supervisor.failure is None


async def test_a_dead_broker_is_started_again_on_its_port_later_when_it_keeps_dying(tmp_path: Path) -> None:
    async with run_supervisor(tmp_path) as supervisor:
        await read_pids(supervisor)
        assert supervisor.broker is not None
        url = supervisor.broker.url
        with capture_logs() as logs:
            for _ in range(2):
                old = supervisor.broker.pid
                os.kill(old, signal.SIGKILL)
                with anyio.fail_after(30):
                    while supervisor.broker.pid == old:
                        await anyio.sleep(0.05)
        assert supervisor.broker.url == url
        await read_pids(supervisor)
    first, second = (entry["delay"] for entry in logs if entry["event"] == "broker died")
    assert first == 0.0
    assert second >= 0.2


async def test_a_child_that_needs_a_person_ends_the_runtime_with_its_last_line(tmp_path: Path) -> None:
    missing = tmp_path / "no-such-model"
    supervisor = Supervisor(
        load_settings(data_dir=tmp_path, nats_port=0, model=str(missing)), names=("inference", "catfish")
    )
    with pytest.raises(SetupError, match="no-such-model"):
        async with supervisor.running():
            await anyio.sleep(60)
    assert all(child.process is None or child.process.returncode is not None for child in supervisor.children.values())


async def test_a_broker_that_keeps_dying_is_started_later_each_time() -> None:
    deaths = Deaths()
    delays = [deaths.add(0.1) for _ in range(7)]
    assert delays[0] == 0.0
    assert all(delay >= 0.2 * 2 ** (number - 1) for number, delay in enumerate(delays) if number)
    assert (deaths.add(STEADY_SECONDS + 1), deaths.count, deaths.quick) == (0.0, 8, 0)


async def test_a_second_supervisor_is_refused_and_the_first_is_not_touched(tmp_path: Path) -> None:
    async with run_supervisor(tmp_path) as first:
        before = await read_pids(first)
        assert first.broker is not None
        with pytest.raises(
            SetupError, match=f"is held by 'a runtime' .process {os.getpid()}, broker nats://.*stop that"
        ):
            async with run_supervisor(tmp_path):
                pass
        assert await read_pids(first) == before
        assert psutil.pid_exists(first.broker.pid)
        assert [child.deaths.count for child in first.children.values()] == [0, 0]


async def test_an_agent_that_hangs_is_killed_and_started_again(tmp_path: Path) -> None:
    async with run_supervisor(tmp_path, hang_timeout=5) as supervisor:
        before = await read_pids(supervisor)
        with capture_logs() as logs:
            os.kill(before["catfish"], signal.SIGSTOP)
            with anyio.fail_after(30):
                while supervisor.children["catfish"].hangs == 0:
                    await anyio.sleep(0.05)
            after = await read_pids(supervisor)
        assert after["catfish"] != before["catfish"]
        assert after["services"] == before["services"]
        assert not psutil.pid_exists(before["catfish"])
        assert [entry["name"] for entry in logs if entry["event"] == "process hung"] == ["catfish"]
        async with connect(bus_settings(supervisor.settings), name="test") as bus:
            reports = {report.status.agent: report.metrics for report in await gather_reports(bus, expected=LIGHT)}
        hung = 'kiki_degraded_total{path="process.hung"}'
        assert f"{hung} 1.0" in reports["catfish"]
        assert hung not in reports["services"]


async def test_a_machine_that_slept_kills_nobody(tmp_path: Path) -> None:
    """Everything stops for longer than a hung agent may: supervisor, broker and agents, and goes on again."""
    async with run_apart(tmp_path, KIKI_HANG_TIMEOUT="5") as supervisor:
        before = await wait_for_children(tmp_path)
        family = [psutil.Process(supervisor.pid), *psutil.Process(supervisor.pid).children(recursive=True)]
        await anyio.sleep(3)  # until the first signs of life are heard
        for process in family:
            process.suspend()
        await anyio.sleep(8)
        for process in family:
            process.resume()
        await anyio.sleep(4)
        assert (await wait_for_children(tmp_path)) == before
        assert all(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)


async def test_a_killed_supervisor_takes_everything_along_and_the_next_one_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One agent hangs as the supervisor is killed: it cannot end by itself, so the next supervisor ends it."""
    monkeypatch.setattr("runtime.supervisor.LEFTOVER_SECONDS", 2.0)
    async with run_apart(tmp_path) as supervisor:
        stopped, *others = await wait_for_children(tmp_path)
        family = psutil.Process(supervisor.pid).children(recursive=True)
        assert sorted(process.name().startswith("nats-server") for process in family) == [False, False, False, True]
        psutil.Process(stopped).suspend()
        supervisor.kill()
        await supervisor.wait()
        ending = [process for process in family if process.pid != stopped]
        _, alive = await anyio.to_thread.run_sync(partial(psutil.wait_procs, ending, timeout=15))
        assert alive == []
        assert psutil.pid_exists(stopped)
    async with run_supervisor(tmp_path) as fresh:
        assert not psutil.pid_exists(stopped)
        assert not set((await read_pids(fresh)).values()) & {stopped, *others}


async def test_a_starting_agent_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.heartbeat.BEAT_SECONDS", 0.01)
    heartbeat = Heartbeat()
    try:
        with anyio.move_on_after(0.5) as waiting:
            await heartbeat.wait_for_silence(0.05)
        assert waiting.cancelled_caught, "no sign of life has come yet"
        os.write(heartbeat.writer, b".")
        with anyio.fail_after(5):
            await heartbeat.wait_for_silence(0.05)
    finally:
        heartbeat.give()
        heartbeat.close()


APART = """
import sys, anyio
from runtime.settings import load_settings
from runtime.supervisor import Supervisor

async def run():
    async with Supervisor(load_settings(nats_port=0), names=("catfish", "services")).running():
        await anyio.sleep_forever()

anyio.run(run)
"""


@asynccontextmanager
async def run_apart(directory: Path, **variables: str) -> AsyncIterator[anyio.abc.Process]:
    """A supervisor in a process of its own; the test ends it if it has not ended."""
    environment = {**os.environ, "KIKI_DATA_DIR": str(directory), "KIKI_CONFIG": str(directory / "none"), **variables}
    with (directory / "up.log").open("wb") as log:
        process = await anyio.open_process([sys.executable, "-c", APART], env=environment, stdout=log, stderr=log)
    async with process:
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()


async def wait_for_children(directory: Path) -> tuple[int, ...]:
    """The process ids of the two children, once both report."""
    with anyio.fail_after(60):
        while (holder := find_holder(directory)) is None or not holder.url:
            await anyio.sleep(0.05)
        async with connect(bus_settings(load_settings(data_dir=directory)), name="test") as bus:
            while {report.status.agent for report in await gather_reports(bus)} != set(LIGHT):
                await anyio.sleep(0.05)
        holder = find_holder(directory)
    assert holder is not None
    return holder.children


BLOCKED = """
import time, anyio
from runtime.heartbeat import beat

async def run():
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(beat)
        await anyio.sleep(1.5)
        time.sleep(60)

anyio.run(run)
"""


async def test_an_event_loop_that_is_blocked_gives_no_sign_of_life() -> None:
    heartbeat = Heartbeat()
    variables = {**os.environ, HEARTBEAT: str(heartbeat.writer)}
    async with await anyio.open_process(
        [sys.executable, "-c", BLOCKED], env=variables, pass_fds=(heartbeat.writer,), stdout=None, stderr=None
    ) as process:
        heartbeat.give()
        with anyio.fail_after(30):
            await heartbeat.wait_for_silence(3)
        assert process.returncode is None
        process.kill()
    heartbeat.close()
