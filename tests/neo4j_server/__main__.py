"""Serves a Neo4j until Ctrl-C."""

import contextlib
import sys
import tempfile
from pathlib import Path

from tests.e2e.conftest import free_port
from tests.neo4j_server import serve_neo4j

with tempfile.TemporaryDirectory() as folder, serve_neo4j(Path(folder), free_port()) as server:
    print(f"NEO4J_URI={server.uri} NEO4J_PASSWORD={server.password}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        sys.stdin.read()
