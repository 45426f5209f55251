"""A real Neo4j in a process of its own, on loopback. Its jars come from Maven Central into the user's Maven repository.

``python -m tests.neo4j_server`` starts one over a temporary home and prints how the environment names it.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import neo4j
import pytest

from tests.maven import build_classpath

PASSWORD = "only-for-tests"

_FOLDER = Path(__file__).parent
_MAVEN_SECONDS = 140
"""Seconds that Maven may take; what it has fetched by then stays in its repository."""
_JAVA = (
    "java",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",  # it starts sooner, and no test is long enough for the other compiler
)


class Neo4jServer:
    """A Neo4j and the account there. ``start`` and ``kill`` are for a server that the tests own (``home`` is set)."""

    def __init__(self, uri: str, *, password: str, user: str = "neo4j", database: str = "neo4j") -> None:
        self.uri = uri
        self.user = user
        self.password = password
        self.database = database
        self.home: Path | None = None
        self._classpath = ""
        self._process: subprocess.Popen[str] | None = None

    @classmethod
    def over(cls, home: Path, port: int, *, classpath: str) -> "Neo4jServer":
        """A server of the tests' own, not started yet."""
        server = cls(f"bolt://127.0.0.1:{port}", password=PASSWORD)
        server.home, server._classpath = home, classpath
        return server

    def start(self, *, read_only: bool = False) -> None:
        """Start the server over its home folder, where it finds what it stored before; return when it answers."""
        assert self.home is not None
        assert self._process is None
        self.home.mkdir(exist_ok=True)
        log = self.home.with_name(f"{self.home.name}.log")
        port = self.uri.rpartition(":")[2]
        command = [*_JAVA, "-cp", self._classpath, str(_FOLDER / "Server.java"), str(self.home), port, self.password]
        if read_only:
            command.append("read-only")
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink, text=True
            )
        assert self._process.stdout is not None
        if not any(line.strip() == self.uri for line in self._process.stdout):
            self.kill()
            pytest.fail(f"Neo4j did not start: {log.read_text()[-2000:]}")

    def kill(self) -> None:
        """Send SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def lose_data(self) -> None:
        """Kill the server and start it over an empty home: same port, same password."""
        assert self.home is not None
        self.kill()
        shutil.rmtree(self.home)
        self.start()

    def run(self, query: str, database: str | None = None) -> None:
        """Run one statement."""
        with neo4j.GraphDatabase.driver(self.uri, auth=(self.user, self.password)) as driver:
            driver.execute_query(query, database_=database or self.database)


@contextlib.contextmanager
def serve_neo4j(folder: Path, port: int) -> Iterator[Neo4jServer]:
    """A running server over a home in ``folder``, killed at the end; without JDK and Maven the one of ``NEO4J_URI``."""
    if all(shutil.which(command) for command in ("java", "javac", "mvn")):
        server = Neo4jServer.over(folder / "neo4j", port, classpath=find_classpath(folder))
        try:
            server.start()
            yield server
        finally:
            server.kill()
    elif "NEO4J_URI" in os.environ:
        yield Neo4jServer(
            os.environ["NEO4J_URI"],
            user=os.environ.get("NEO4J_USER", "neo4j"),
            password=os.environ.get("NEO4J_PASSWORD", ""),
            database=os.environ.get("NEO4J_DATABASE", "neo4j"),
        )
    else:
        pytest.skip("no JDK and Maven here, and NEO4J_URI is not set")


def find_classpath(folder: Path) -> str:
    """Neo4j's jars as Java takes them. Maven fetches those that its repository lacks.

    Skips the test when that fails, but for CI, where it is an error.
    """
    try:
        return build_classpath(_FOLDER / "pom.xml", folder / "classpath", timeout=_MAVEN_SECONDS)
    except OSError as error:
        reason = f"Maven cannot fetch Neo4j: {error}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
