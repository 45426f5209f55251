"""Where the tests' Neo4j comes from, and what is said where there is none."""

from pathlib import Path

import pytest

from tests.neo4j_server import serve_neo4j


def install(folder: Path, name: str, script: str) -> None:
    """Make an executable."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the whole PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("NEO4J_URI", raising=False)
    monkeypatch.delenv("CI", raising=False)
    return tmp_path


def test_without_jdk_and_maven_the_reason_is_said(commands: Path) -> None:
    with pytest.raises(pytest.skip.Exception, match="no JDK and Maven here, and NEO4J_URI is not set"):
        serve_neo4j(commands, 1).__enter__()


def test_without_jdk_and_maven_the_environment_names_the_server(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEO4J_URI", "bolt://graph:7687")
    monkeypatch.setenv("NEO4J_PASSWORD", "secret")
    with serve_neo4j(commands, 1) as server:
        assert (server.uri, server.user, server.password, server.home) == ("bolt://graph:7687", "neo4j", "secret", None)


def test_jars_that_cannot_be_fetched_are_a_skip_and_in_ci_an_error(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("java", "javac", "mvn"):
        install(commands, name, "echo '[INFO] Downloading'; echo '[ERROR] no route to host'; exit 1")
    with pytest.raises(pytest.skip.Exception, match="no route to host"):
        serve_neo4j(commands, 1).__enter__()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no route to host"):
        serve_neo4j(commands, 1).__enter__()
