"""``kiki doctor``: a line for each thing that it looks at, and an exit code for programs."""

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bus.connection import Bus
from runtime import doctor
from runtime.agents import turn_agents
from runtime.cli.__main__ import app
from runtime.exits import FAILED_EXIT
from runtime.settings import load_settings
from tests.e2e.conftest import free_port


@pytest.fixture(autouse=True)
def quiet_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of nobody, an empty data directory and cache, and ports that are free."""
    monkeypatch.setenv("KIKI_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("KIKI_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("KIKI_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("KIKI_NATS_PORT", str(free_port()))
    monkeypatch.setenv("KIKI_PORT", str(free_port()))


def invoke_doctor() -> Result:
    with ThreadPoolExecutor(1) as pool:  # a fixture's event loop may run in this thread
        return pool.submit(CliRunner().invoke, app, ["doctor"]).result()


def run_doctor() -> tuple[int, list[str]]:
    result = invoke_doctor()
    return result.exit_code, result.output.splitlines()


def test_a_machine_on_which_nothing_runs_is_well() -> None:
    code, lines = run_doctor()
    assert code == 0, lines
    assert not [line for line in lines if line.startswith("WRONG")]
    (broker,) = (line for line in lines if line.startswith("note  broker"))
    assert broker.endswith("-> 'kiki up' starts one")
    assert any("held by nobody" in line for line in lines)
    assert not Path(load_settings().data_dir).exists(), "looking makes no folder"


def test_a_port_that_is_taken_is_wrong_and_names_its_setting() -> None:
    with socket.create_server(("127.0.0.1", load_settings().port)):
        code, lines = run_doctor()
    assert code == FAILED_EXIT
    (wrong,) = (line for line in lines if line.startswith("WRONG"))
    assert wrong.endswith("-> free it, or set KIKI_PORT")
    assert f"port {load_settings().port}" in wrong


def test_a_login_without_a_broker_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIKI_NATS_CREDS", str(tmp_path / "of.creds"))
    code, lines = run_doctor()
    assert code == FAILED_EXIT
    assert any(line.startswith("WRONG broker") for line in lines)


def test_a_setting_that_does_not_exist_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIKI_NATSS", "nats://127.0.0.1:1")
    result = invoke_doctor()
    assert result.exit_code != 0
    assert result.output.count("\n") == 1
    assert "did you mean KIKI_NATS?" in result.output


@pytest.mark.anyio
async def test_a_broker_without_agents_is_told_with_the_agent_to_start(bus: Bus, nats_url: str) -> None:
    await bus.reconcile()
    findings = {finding.name: finding for finding in await doctor.examine(load_settings(nats=nats_url))}
    assert (findings["broker"].state, findings["broker"].detail) == ("ok", f"answers at {nats_url}")
    assert (findings["agents"].state, findings["agents"].detail) == ("wrong", "none")
    assert findings["agents"].mend == f"'kiki run {turn_agents()[0]}' or 'kiki up'"
    assert findings["sync"].state == "note"
    assert not any(name.startswith("port ") for name in findings)
