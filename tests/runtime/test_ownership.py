"""Commands on a data directory that a runtime holds: they attach to its broker, or are refused in one line."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import CompletedProcess

import anyio
import anyio.abc
import anyio.to_thread
import psutil
import pytest

from bus.agent import gather_reports
from bus.broker import run_broker
from bus.broker.ownership import find_holder, hold
from bus.connection import Bus, connect
from runtime import doctor
from runtime.composition import broker_url, bus_settings
from runtime.local_memory import open_memory
from runtime.settings import Settings, load_settings
from runtime.supervisor import Supervisor
from schemas.chat import Message, Sampling
from schemas.envelope import new_turn
from schemas.errors import SetupError
from tests.e2e.conftest import free_port

pytestmark = pytest.mark.anyio


def variables(directory: Path, **others: str) -> dict[str, str]:
    """The environment of a command on the directory, whose port nobody listens on."""
    own = {"KIKI_DATA_DIR": str(directory), "KIKI_NATS_PORT": str(free_port()), "KIKI_PORT": str(free_port())}
    return {**os.environ, **own, "KIKI_CONFIG": str(directory / "none.toml"), "COLUMNS": "200", **others}


async def kiki(directory: Path, *arguments: str, **others: str) -> CompletedProcess[str]:
    """Run a ``kiki`` command on the directory."""
    command = [sys.executable, "-m", "runtime", *arguments]
    result = await anyio.run_process(command, env=variables(directory, **others), check=False)
    return CompletedProcess(command, result.returncode, result.stdout.decode(), result.stderr.decode())


@asynccontextmanager
async def run_memory(directory: Path, model: Path) -> AsyncIterator[Supervisor]:
    """A runtime of a memory alone, ready."""
    settings = load_settings(data_dir=directory, nats_port=0, model=str(model))
    supervisor = Supervisor(settings, names=("memory",), title="kiki up")
    async with supervisor.running():
        await wait_for_agent(supervisor.settings, "memory")
        yield supervisor


async def wait_for_agent(settings: Settings, name: str) -> int:
    """The process id of the agent, once it reports itself ready."""
    with anyio.fail_after(60):
        async with connect(bus_settings(settings), name="test") as bus:
            while True:
                for report in await gather_reports(bus):
                    if (report.status.agent, report.status.ready) == (name, True):
                        return report.pid
    raise AssertionError


async def test_commands_attach_to_the_running_runtime_or_are_refused(tmp_path: Path, small_model: Path) -> None:
    async with run_memory(tmp_path, small_model) as supervisor:
        assert supervisor.broker is not None
        holder = f"'kiki up' (process {os.getpid()}, broker {supervisor.broker.url})"
        memory = await wait_for_agent(supervisor.settings, "memory")

        verified = await kiki(tmp_path, "memory", "verify")
        assert (verified.returncode, verified.stderr) == (0, f"memory of {tmp_path}, held by {holder}\n")
        assert verified.stdout.startswith("0 episodes recorded")

        second = await kiki(tmp_path, "up")
        assert second.returncode == 2
        assert second.stderr.splitlines() == [
            f"kiki: {tmp_path} is held by {holder}: stop that first, or set another data directory with KIKI_DATA_DIR."
        ]

        assert psutil.pid_exists(supervisor.broker.pid)
        assert await wait_for_agent(supervisor.settings, "memory") == memory
        findings = await doctor.examine(load_settings(data_dir=tmp_path, nats_port=free_port()))
        assert [finding for finding in findings if finding.name in ("data directory", "broker")] == [
            doctor.Finding("data directory", "ok", f"{tmp_path}, held by {holder}"),
            doctor.Finding("broker", "ok", f"answers at {supervisor.broker.url}"),
        ]
    assert find_holder(tmp_path) is None


async def test_a_memory_that_is_opened_for_a_command_says_so_and_holds_the_folder(
    tmp_path: Path, small_model: Path
) -> None:
    lines: list[str] = []
    settings = load_settings(data_dir=tmp_path, nats_port=0, model=str(small_model))
    async with open_memory(settings, say=lines.append):
        assert "a command on the memory" in str(find_holder(tmp_path))
    assert lines == [f"memory of {tmp_path}, opened for this command"]
    assert find_holder(tmp_path) is None


async def test_a_memory_at_an_address_is_told_without_its_password(tmp_path: Path, nats_url: str) -> None:
    url = nats_url.replace("//", "//somebody:secret@")
    result = await kiki(tmp_path, "memory", "stats", "--nats", url)
    assert result.stderr.splitlines()[0] == f"memory at {nats_url}"
    assert not find_holder(tmp_path)


async def test_a_runtime_on_a_broker_from_elsewhere_holds_its_folder_too(tmp_path: Path, nats_url: str) -> None:
    supervisor = Supervisor(load_settings(data_dir=tmp_path, nats=nats_url), names=("catfish",), title="kiki up")
    async with supervisor.running():
        with pytest.raises(SetupError, match=r"is held by 'kiki up' .*: give its NATS server with --nats or KIKI_NATS"):
            async with open_memory(load_settings(data_dir=tmp_path, nats_port=free_port())):
                pass
        assert nats_url not in (tmp_path / "runtime.lock").read_text(), "an address may hold a password"


async def test_an_agent_that_is_run_alone_goes_to_the_broker_of_its_folder(tmp_path: Path) -> None:
    async with run_broker(tmp_path, port=0) as running:
        command = [sys.executable, "-m", "runtime", "run", "catfish"]
        async with await anyio.open_process(command, env=variables(tmp_path), stdout=None, stderr=None) as agent:
            settings = load_settings(data_dir=tmp_path, nats_port=free_port())
            assert broker_url(settings) == running.url
            assert await wait_for_agent(settings, "catfish") == agent.pid
            agent.terminate()


async def test_a_data_directory_is_made_for_an_agent_that_is_run_alone(tmp_path: Path, bus: Bus) -> None:
    missing = tmp_path / "not" / "there"
    command = [sys.executable, "-m", "runtime", "run", "inference"]
    environment = variables(missing, KIKI_NATS=bus.settings.url)
    async with await anyio.open_process(command, env=environment, stdout=None) as agent:
        await wait_for_agent(load_settings(nats=bus.settings.url), "inference")
        question, sampling = (Message(role="user", content="Hello?"),), Sampling(max_tokens=1)
        envelope = new_turn(tenant="test", timeout=60)
        await bus.ask(envelope, lane="auxiliary", messages=question, sampling=sampling)
        agent.terminate()
        assert agent.stderr is not None
        log = b"".join([chunk async for chunk in agent.stderr]).decode()
    assert (missing / "inference.json").exists(), "the journal of crashes"
    assert "degraded" not in log


async def test_a_data_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "data"
    for command in (("run", "catfish"), ("up",), ("memory", "verify")):
        result = await kiki(place, *command)
        assert result.returncode == 2
        assert f"{place} (Not a directory)" in result.stderr.splitlines()[-1]


async def test_a_folder_is_free_again_though_its_holder_failed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        async with hold(tmp_path, title="first"):
            raise RuntimeError
    async with hold(tmp_path, title="second") as held:
        assert held.previous is None
        held.note(url="nats://127.0.0.1:1", children=(7,))
        holder = find_holder(tmp_path)
        assert holder is not None
        assert (holder.title, holder.pid, holder.url, holder.children) == (
            "second",
            os.getpid(),
            "nats://127.0.0.1:1",
            (7,),
        )
