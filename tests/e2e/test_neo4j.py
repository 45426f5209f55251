"""A whole runtime whose graph is on a Neo4j."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Runtime, free_port, start, stop
from tests.neo4j_server import Neo4jServer

STATEMENT = "The code of the north cellar is 4471-PLUM."
QUESTION = "What is the code of the north cellar?"
SESSION = "cellar"


def on_server(server: Neo4jServer, *, password: str) -> dict[str, str]:
    """The settings that put Trace on the server."""
    return {
        "KIKI_AGENTS__MEMORY__TRACE": "neo4j",
        "KIKI_AGENTS__MEMORY__NEO4J_URI": server.uri,
        "KIKI_AGENTS__MEMORY__NEO4J_USER": server.user,
        "KIKI_AGENTS__MEMORY__NEO4J_PASSWORD": password,
        "KIKI_AGENTS__MEMORY__NEO4J_DATABASE": server.database,
    }


@pytest.fixture
def runtime(tmp_path: Path, neo4j_server: Neo4jServer, small_model: Path, embedder_path: Path) -> Iterator[Runtime]:
    """A runtime with an empty memory on the server."""
    neo4j_server.run("MATCH (n) DETACH DELETE n")
    running = start(tmp_path, **on_server(neo4j_server, password=neo4j_server.password))
    yield running
    stop(running)


def test_a_turn_is_answered_recorded_and_recalled(runtime: Runtime) -> None:
    ask(runtime, STATEMENT)
    wait_for_episodes(runtime, 1)
    assert ask(runtime, QUESTION)["recalled"]
    wait_for_episodes(runtime, 2)
    verified = runtime.kiki("memory", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    rebuilt = runtime.kiki("memory", "rebuild")
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert [episode["question"] for episode in read_session(runtime)] == [STATEMENT, QUESTION]


def test_a_wrong_password_ends_the_start_with_one_line_that_names_the_setting(
    tmp_path: Path, neo4j_server: Neo4jServer
) -> None:
    environment = {
        **os.environ,
        **on_server(neo4j_server, password="wrong-password"),
        "KIKI_DATA_DIR": str(tmp_path / "data"),
        "KIKI_NATS_PORT": str(free_port()),
        "KIKI_CONFIG": str(tmp_path / "none.toml"),
        "COLUMNS": "200",
    }
    verify = subprocess.run(
        [sys.executable, "-m", "runtime", "memory", "verify"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert verify.returncode == 2, verify.stderr
    *_, line = verify.stderr.splitlines()  # the first says which folder is opened
    assert "setting 'agents.memory.neo4j_password'" in line
    assert f"{neo4j_server.uri} refuses user '{neo4j_server.user}'" in line


def ask(runtime: Runtime, text: str) -> dict[str, Any]:
    """One turn of the session."""
    reply = httpx.post(
        f"{runtime.http}/v1/chat/completions",
        json={
            "model": "micro-kiki-fast",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 16,
            "seed": 7,
            "kiki": {"trace": True},
        },
        headers={"X-Session-Id": SESSION},
        timeout=120,
    )
    assert reply.status_code == 200, reply.text
    account: dict[str, Any] = reply.json()["kiki"]
    return account


def read_session(runtime: Runtime) -> list[dict[str, Any]]:
    reply = httpx.get(f"{runtime.http}/v1/sessions/{SESSION}", timeout=30)
    return reply.json()["episodes"] if reply.status_code == 200 else []


def wait_for_episodes(runtime: Runtime, count: int) -> None:
    """Wait until so many episodes of the session are in both stores."""
    end = time.monotonic() + 60
    while len(read_session(runtime)) < count:
        assert time.monotonic() < end
        time.sleep(0.1)
