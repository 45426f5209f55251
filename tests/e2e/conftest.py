"""A whole runtime as its users start it: ``kiki up`` in a process of its own, with the real models."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from bus.access.login import OWNER
from bus.connection import BusSettings
from runtime.access import login_of
from tests.e2e.adapters import write_consolidation_inputs
from tests.e2e.collector import Collector, collect_spans

READY_SECONDS = 150


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Runtime:
    """A running ``kiki up``: where it answers and where it writes."""

    process: subprocess.Popen[bytes]
    http: str
    nats: str
    data_dir: Path
    environment: dict[str, str]

    @property
    def bus(self) -> BusSettings:
        """How the person of the machine reaches the broker."""
        return BusSettings(url=self.nats, login=login_of(self.data_dir / "nats", OWNER))

    def kiki(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a ``kiki`` command against this runtime."""
        return subprocess.run(
            [sys.executable, "-m", "runtime", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def start(directory: Path, *options: str, module: str = "runtime", **variables: str) -> Runtime:
    """Start ``kiki up`` as :func:`launch` does, and wait until it is ready."""
    runtime = launch(directory, *options, module=module, **variables)
    wait_until_ready(runtime)
    return runtime


def launch(directory: Path, *options: str, module: str = "runtime", **variables: str) -> Runtime:
    """Start ``kiki up`` on free ports, with settings as ``variables``.

    ``module`` is run in the place of the ``runtime`` module.
    """
    http_port, nats_port = free_port(), free_port()
    environment = {
        **os.environ,
        "KIKI_DATA_DIR": str(directory / "data"),
        "KIKI_PORT": str(http_port),
        "KIKI_NATS_PORT": str(nats_port),
        "KIKI_CONFIG": str(directory / "none.toml"),
        "COLUMNS": "200",
        **variables,
    }
    with (directory / "up.log").open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", module, "up", *options],
            env=environment,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    return Runtime(
        process, f"http://127.0.0.1:{http_port}", f"nats://127.0.0.1:{nats_port}", directory / "data", environment
    )


def wait_until_ready(runtime: Runtime) -> None:
    """Wait until the runtime is ready; end it and fail when it is not in time."""
    process, log = runtime.process, runtime.data_dir.parent / "up.log"
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            pytest.fail(f"kiki up ended with {process.returncode}: {log.read_text()}")
        try:
            if httpx.get(f"{runtime.http}/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
        time.sleep(0.1)
    stop(runtime)
    pytest.fail(f"not ready after {READY_SECONDS} s: {log.read_text()}")


def stop(runtime: Runtime) -> None:
    """Send Ctrl-C as a person would, and kill the process if it does not end."""
    if runtime.process.poll() is None:
        runtime.process.send_signal(signal.SIGINT)
        try:
            runtime.process.wait(10)
        except subprocess.TimeoutExpired:
            runtime.process.kill()
            runtime.process.wait(5)


def list_violations(runtime: Runtime) -> list[str]:
    """What the broker refused to its users: nothing, as long as each does what its role says."""
    lines = (runtime.data_dir / "nats" / "nats.log").read_text(errors="replace").splitlines()
    return [line for line in lines if "Violation" in line]


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Collects the traces of the session's runtime."""
    with collect_spans() as running:
        yield running


@pytest.fixture(scope="session")
def runtime(
    tmp_path_factory: pytest.TempPathFactory, small_model: Path, embedder_path: Path, collector: Collector
) -> Iterator[Runtime]:
    """One runtime for the session."""
    folder = tmp_path_factory.mktemp("runtime")
    tracing = {"KIKI_OTLP_ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "200"}  # milliseconds, not 5000
    running = start(folder, **tracing, **write_consolidation_inputs(folder, small_model))
    yield running
    stop(running)
    assert list_violations(running) == []


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the client's wheel and what it asks for, nothing else."""
    from tests.e2e.outside import install_client

    return install_client(tmp_path_factory.mktemp("client"))
