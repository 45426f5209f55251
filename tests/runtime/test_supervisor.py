"""The supervisor with real processes: it restarts what dies, and leaves nothing behind."""

import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import psutil
import pytest

from bus.agent import gather_reports
from bus.connection import connect
from runtime.composition import bus_settings
from runtime.settings import load_settings
from runtime.supervisor import Supervisor
from schemas.errors import SetupError

pytestmark = pytest.mark.anyio

LIGHT = ("catfish", "services")
"""Agents that load no model."""


@asynccontextmanager
async def run_supervisor(directory: Path, names: tuple[str, ...] = LIGHT) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(load_settings(data_dir=directory, nats_port=0), names=names)
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
        everything = [supervisor.broker.process.pid, *before.values()]
        os.kill(before["catfish"], signal.SIGKILL)
        with anyio.fail_after(30):
            while supervisor.children["catfish"].restarts == 0:
                await anyio.sleep(0.05)
        after = await read_pids(supervisor)
        assert after["catfish"] != before["catfish"]
        assert after["services"] == before["services"]
        everything.append(after["catfish"])
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert [pid for pid in everything if psutil.pid_exists(pid)] == []


async def test_a_dead_broker_is_started_again_on_its_port(tmp_path: Path) -> None:
    async with run_supervisor(tmp_path) as supervisor:
        await read_pids(supervisor)
        assert supervisor.broker is not None
        url, old = supervisor.broker.url, supervisor.broker.process.pid
        os.kill(old, signal.SIGKILL)
        with anyio.fail_after(30):
            while supervisor.broker.process.pid == old:
                await anyio.sleep(0.05)
        assert supervisor.broker.url == url
        await read_pids(supervisor)


async def test_a_child_that_needs_a_person_ends_the_runtime_with_its_last_line(tmp_path: Path) -> None:
    missing = tmp_path / "no-such-model"
    supervisor = Supervisor(
        load_settings(data_dir=tmp_path, nats_port=0, model=str(missing)), names=("inference", "catfish")
    )
    with pytest.raises(SetupError, match="no-such-model"):
        async with supervisor.running():
            await anyio.sleep(60)
    assert all(child.process is None or child.process.returncode is not None for child in supervisor.children.values())
