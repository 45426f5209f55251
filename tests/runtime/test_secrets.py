"""A broker's password, planted in the settings: it is in no log, error, answer, file or command line of the runtime."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import anyio
import httpx
import psutil
import pytest
from structlog.testing import capture_logs

from bus.agent import gather_reports
from bus.connection import connect
from runtime.composition import bus_settings
from runtime.settings import load_settings
from runtime.supervisor import Supervisor
from tests.bus.access.servers import HOST, serve
from tests.e2e.conftest import free_port

PASSWORD = "pl@nted:p%41ss/w0rd"
SECRETS = (PASSWORD, quote(PASSWORD, safe=""), PASSWORD.split("@")[1])
VERBS = (["doctor"], ["services", "ls"])


def find_secrets(text: str) -> list[str]:
    """The planted password in the text, as it is or percent-encoded."""
    return [secret for secret in SECRETS if secret in text.replace("\n", "")]


@pytest.mark.anyio
async def test_a_runtime_tells_nobody_its_brokers_password(tmp_path: Path) -> None:
    server, data, port = tmp_path / "server", tmp_path / "data", free_port()
    server.mkdir()
    access = f'authorization {{ user: "ann", password: "{PASSWORD}" }}'
    with serve(server, access) as address, capture_logs() as lines:
        url = address.replace("//", f"//ann:{SECRETS[1]}@")
        settings = load_settings(data_dir=data, nats=url, port=port)
        supervisor = Supervisor(settings, names=("catfish", "services", "facade"))
        async with supervisor.running():
            printed = [await _read_answers(supervisor, port)]
            printed += [" ".join(process.cmdline()) for process in psutil.Process().children(recursive=True)]
            printed += [_run(verb, url, data) for verb in VERBS]
            printed += [_run(verb, url.replace("ann", "bob"), data) for verb in VERBS]
            _end_server(address)
            await anyio.sleep(1.0)  # every process logs that the broker is gone
            printed += [_run(verb, url, data) for verb in VERBS]
    files = [path for path in data.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"catfish.log", "services.log", "facade.log", "runtime.lock"}
    assert any("broker lost" in path.read_text() for path in files if path.suffix == ".log")
    printed += [path.read_text(errors="replace") for path in files] + [str(lines), repr(settings), repr(supervisor)]
    assert any(HOST in text for text in printed)
    assert [secret for text in printed for secret in find_secrets(text)] == []


async def _read_answers(supervisor: Supervisor, port: int) -> str:
    """What the facade answers once the agents are there."""
    async with connect(bus_settings(supervisor.settings), name="test") as bus, httpx.AsyncClient() as client:
        with anyio.fail_after(60):
            while {report.status.agent for report in await gather_reports(bus)} < {"catfish", "services"}:
                await anyio.sleep(0.1)
            while True:
                try:
                    paths = ("health", "ready", "metrics", "v1/models", "openapi.json")
                    return "".join([(await client.get(f"http://{HOST}:{port}/{path}")).text for path in paths])
                except httpx.TransportError:
                    await anyio.sleep(0.1)


def _run(verb: list[str], url: str, data: Path) -> str:
    """What a command prints that has the URL from its environment."""
    command = [sys.executable, "-m", "runtime", *verb]
    variables = {**os.environ, "KIKI_NATS": url, "KIKI_DATA_DIR": str(data), "KIKI_CONFIG": str(data / "none.toml")}
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=60)
    return result.stdout + result.stderr


def _end_server(address: str) -> None:
    port = int(address.rpartition(":")[2])
    for process in psutil.Process().children():
        if any(connection.laddr[1:2] == (port,) for connection in process.net_connections()):
            process.terminate()
