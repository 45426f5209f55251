"""A live server that speaks Bolt and Cypher, in a process of its own: ArcadeDB with its Bolt plugin.

Prints its address once it answers, and ends when its standard input is closed.
"""

import contextlib
import os
import sys

import arcadedb_embedded

from tests.e2e.conftest import free_port

PASSWORD = "only-for-tests"
DATABASES = ("trace", "agent", "strangers", "twin")


def main(directory: str, port: int) -> None:
    """Serve the databases in ``directory``."""
    config = {
        "host": "127.0.0.1",
        "http_port": free_port(),
        "bolt_port": port,
        "server_plugins": "Bolt:com.arcadedb.bolt.BoltProtocolPlugin",
    }
    server = arcadedb_embedded.create_server(directory, root_password=PASSWORD, config=config)
    server.start()
    for name in DATABASES:
        with contextlib.suppress(arcadedb_embedded.ArcadeDBError):  # the database exists
            server.create_database(name)
    print(f"bolt://127.0.0.1:{port}", flush=True)
    sys.stdin.read()
    os._exit(0)  # the server's own shutdown takes fifteen seconds


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
