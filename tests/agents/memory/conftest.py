"""The stores' servers: real ones, started here or named by the environment."""

import os
from pathlib import Path

import pytest

from agents.memory.settings import MemorySettings
from tests.agents.memory.scenes import SIZE
from tests.neo4j_server import Neo4jServer


def neo4j_settings(path: Path, server: Neo4jServer) -> MemorySettings:
    """Trace on the server; its database must be empty or the tests' own."""
    return MemorySettings(
        data_dir=path,
        vector_size=SIZE,
        trace="neo4j",
        neo4j_uri=server.uri,
        neo4j_user=server.user,
        neo4j_password=server.password,
        neo4j_database=server.database,
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
