"""Ctrl-C ends everything within five seconds; a supervisor that is killed takes its agents with it."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import Runtime, free_port, start

pytestmark = pytest.mark.timeout(240)

BROKER = "nats-server"


def family(runtime: Runtime) -> list[psutil.Process]:
    """The supervisor and all that it started."""
    supervisor = psutil.Process(runtime.process.pid)
    return [supervisor, *supervisor.children(recursive=True)]


def test_ctrl_c_leaves_no_orphan(tmp_path: Path, small_model: Path, embedder_path: Path) -> None:
    runtime = start(tmp_path)
    processes = family(runtime)
    assert len(processes) == 10  # supervisor, broker, its watcher, eight agents in six processes, facade
    began = time.monotonic()
    runtime.process.send_signal(signal.SIGINT)
    assert runtime.process.wait(10) == 0
    assert time.monotonic() - began < 5.0
    assert [process for process in processes if process.is_running()] == []


def test_a_killed_supervisor_takes_agents_and_broker_along(
    tmp_path: Path, small_model: Path, embedder_path: Path
) -> None:
    runtime = start(tmp_path)
    processes = family(runtime)
    (broker,) = find_brokers(runtime.data_dir)
    assert broker in processes
    runtime.process.kill()
    runtime.process.wait(5)
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert alive == []
    assert find_brokers(runtime.data_dir) == []


def find_brokers(directory: Path) -> list[psutil.Process]:
    """Every nats-server of this machine with its configuration in the directory, whoever its parent is."""
    servers = [process for process in psutil.process_iter(["name", "cmdline"]) if process.info["name"] == BROKER]
    return [server for server in servers if str(directory) in " ".join(server.info["cmdline"] or ())]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--adapters", "no/such/folder"), "there is no adapters folder at no/such/folder: make it"),
        (("--model", "no-such-model"), "no model 'no-such-model'"),
        (("--nats", "nats://127.0.0.1:9"), "no NATS server answers at nats://127.0.0.1:9"),
    ],
)
def test_a_runtime_that_cannot_start_prints_one_line(tmp_path: Path, options: tuple[str, ...], line: str) -> None:
    result = run_up(tmp_path, *options)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert line in result.stderr.splitlines()[-1]


def test_a_model_that_cannot_be_fetched_ends_with_the_reason(tmp_path: Path) -> None:
    result = run_up(
        tmp_path, "--model", "org/absent", HF_ENDPOINT="http://127.0.0.1:9", KIKI_CACHE_DIR=str(tmp_path / "cache")
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("kiki: cannot fetch org/absent from the hub")


def test_a_busy_port_is_refused_in_one_line(tmp_path: Path, embedder_path: Path, small_model: Path) -> None:

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        broker = run_up(tmp_path, "--nats-port", str(port))
        facade = run_up(tmp_path, "--port", str(port))
    for result in (broker, facade):
        assert result.returncode == 2
        assert "Traceback" not in result.stderr
        assert str(port) in result.stderr or "busy" in result.stderr


def run_up(directory: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """``kiki up`` that is expected to end by itself."""

    defaults = {
        "KIKI_DATA_DIR": str(directory / "data"),
        "KIKI_NATS_PORT": str(free_port()),
        "KIKI_PORT": str(free_port()),
        "KIKI_CONFIG": str(directory / "none.toml"),
        "KIKI_LOG_LEVEL": "error",
    }
    return subprocess.run(
        [sys.executable, "-m", "runtime", "up", *options],
        env={**os.environ, **defaults, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
