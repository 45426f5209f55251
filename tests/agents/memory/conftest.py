"""The stores' servers: real ones, started here or named by the environment."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from agents.memory.settings import MemorySettings
from tests.agents.memory.scenes import SIZE
from tests.agents.memory.stores.bolt_server import PASSWORD
from tests.e2e.conftest import free_port


@contextlib.contextmanager
def serve_bolt(directory: Path, port: int) -> Iterator[str]:
    """A live Bolt server's address; the server is killed at the end."""
    with (directory / "bolt.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.agents.memory.stores.bolt_server", str(directory), str(port)],
            cwd=directory,  # it writes its logs there
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        lines = (line.strip() for line in process.stdout)
        address = next((line for line in lines if line.startswith("bolt://")), None)
        assert address, (directory / "bolt.log").read_text()
        yield address
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.fixture(scope="session")
def bolt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the session's Bolt server."""
    with serve_bolt(tmp_path_factory.mktemp("bolt"), free_port()) as address:
        yield address


def bolt_settings(path: Path, address: str, database: str = "trace") -> MemorySettings:
    """Trace on the server that the tests start."""
    return MemorySettings(
        data_dir=path,
        vector_size=SIZE,
        trace="neo4j",
        neo4j_uri=address,
        neo4j_user="root",
        neo4j_password=PASSWORD,
        neo4j_database=database,
    )


def neo4j_settings(path: Path) -> MemorySettings:
    """Trace on the server that ``NEO4J_URI`` names; its database must be empty or the tests' own."""
    return replace(
        bolt_settings(path, os.environ["NEO4J_URI"], os.environ.get("NEO4J_DATABASE", "neo4j")),
        neo4j_user=os.environ.get("NEO4J_USER", "neo4j"),
        neo4j_password=os.environ.get("NEO4J_PASSWORD", ""),
    )


def qdrant_settings(path: Path) -> MemorySettings:
    """Atlas on the server that ``QDRANT_URL`` names, in a collection of the tests' own."""
    return MemorySettings(
        data_dir=path,
        vector_size=SIZE,
        atlas="qdrant",
        qdrant_url=os.environ["QDRANT_URL"],
        qdrant_key=os.environ.get("QDRANT_KEY"),
        qdrant_collection=f"kiki-tests-{os.getpid()}",
    )


def skip_without(variable: str) -> pytest.MarkDecorator:
    """Skip a test when the environment variable that names its server is not set."""
    return pytest.mark.skipif(variable not in os.environ, reason=f"{variable} names no server")
