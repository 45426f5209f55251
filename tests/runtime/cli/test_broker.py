"""``kiki broker``: the broker without a runtime, for agents that are run one by one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.broker.ownership import find_holder


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "KIKI_DATA_DIR": str(tmp_path / "data"),
        "KIKI_NATS_PORT": "0",
        "KIKI_CONFIG": str(tmp_path / "none.toml"),
    }


def start_kiki(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "runtime", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def broker(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = start_kiki(environment, "broker")
    yield process
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=15)


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return line
    pytest.fail("".join(lines))


def test_an_agent_runs_on_the_broker_alone(
    broker: subprocess.Popen[str], environment: dict[str, str], tmp_path: Path
) -> None:
    line = read_until(broker, "broker on nats://127.0.0.1:")
    holder = find_holder(tmp_path / "data")
    assert holder is not None
    assert holder.url in line
    agent = start_kiki(environment, "run", "negotiator")
    try:
        read_until(agent, "agent ready")
        second = start_kiki(environment, "broker")
        output, _ = second.communicate(timeout=30)
        assert (second.returncode, "held by 'kiki broker'" in output) == (2, True), output
    finally:
        agent.terminate()
        agent.communicate(timeout=15)
    assert agent.returncode == 0


def test_a_broker_that_is_named_is_not_ours_to_start(environment: dict[str, str]) -> None:
    process = start_kiki(environment | {"KIKI_NATS": "nats://127.0.0.1:4"}, "broker")
    began = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, "is not ours to start" in output) == (2, True), output
    assert time.monotonic() - began < 55
