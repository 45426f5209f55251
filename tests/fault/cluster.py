"""A cluster of three nats-servers on this machine, each with a store of its own, and a runtime's processes on it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from bus.broker import MAX_PAYLOAD, find_executable
from runtime.agents import FACADE, default_agents
from runtime.composition import group_by_process
from tests.e2e.conftest import free_port

SIZE = 3
START_SECONDS = 30.0
STOP_SECONDS = 10.0

_CONFIG = Template(
    """\
server_name: "node-$number"
listen: "127.0.0.1:$port"
max_payload: $max_payload
jetstream {
  store_dir: "$directory"
  domain: "kiki"
  max_memory_store: 1GB
  max_file_store: 20GB
  sync_interval: always
}
cluster { name: "three", listen: "127.0.0.1:$route", routes: [$routes] }
"""
)


def spawn(command: Sequence[str], log: Path, **variables: str) -> "subprocess.Popen[bytes]":
    """Start a process in a session of its own; what it prints is added to ``log``."""
    with log.open("ab") as sink:
        return subprocess.Popen(
            command,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )


@dataclass
class Node:
    """One server: its number, its two ports (for clients and for the other servers), its folder, its process."""

    number: int
    directory: Path
    port: int = field(default_factory=free_port)
    route: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self, nodes: Sequence["Node"]) -> None:
        """Start the server, on the store that it had before, and wait until it takes connections."""
        config = self.directory / "nats.conf"
        routes = ", ".join(f'"nats://127.0.0.1:{node.route}"' for node in nodes)
        config.write_text(
            _CONFIG.substitute(
                number=self.number,
                port=self.port,
                route=self.route,
                routes=routes,
                directory=self.directory,
                max_payload=MAX_PAYLOAD,
            )
        )
        self.process = spawn([find_executable(), "-c", str(config)], self.directory / "nats.log")
        self._wait_until_it_answers()

    def kill(self) -> None:
        """kill -9; the store stays."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _wait_until_it_answers(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
                return
            time.sleep(0.05)
        raise TimeoutError((self.directory / "nats.log").read_text())


@dataclass
class Cluster:
    """Three servers, which know each other."""

    nodes: list[Node]

    @property
    def url(self) -> str:
        """All addresses, as ``KIKI_NATS`` takes them."""
        return ",".join(f"nats://127.0.0.1:{node.port}" for node in self.nodes)

    def start(self, *numbers: int) -> None:
        """Start these servers."""
        for number in numbers:
            self.nodes[number].start(self.nodes)

    def kill(self, *numbers: int) -> None:
        """kill -9 of these servers."""
        for number in numbers:
            self.nodes[number].kill()


@contextlib.contextmanager
def make_cluster(directory: Path) -> Iterator[Cluster]:
    """Three servers, none of which runs yet; those that run at the end are killed."""
    folders = [directory / f"node-{number}" for number in range(SIZE)]
    for folder in folders:
        folder.mkdir(parents=True)
    cluster = Cluster([Node(number, folder) for number, folder in enumerate(folders)])
    try:
        yield cluster
    finally:
        cluster.kill(*range(SIZE))


COMMANDS: dict[str, tuple[str, ...]] = {
    **{name: ("runtime.child", *agents) for name, agents in group_by_process((*default_agents(), FACADE)).items()},
    "inference": ("tests.fault.scripted", "run", "inference"),
}
"""The processes of a runtime as ``kiki up`` starts them, each with its module and arguments; the worker is scripted."""


@dataclass
class Processes:
    """A runtime's processes, without a supervisor: whatever ends stays ended. All are killed when the context ends."""

    directory: Path
    variables: dict[str, str]
    running: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)
    marks: dict[str, int] = field(default_factory=dict)

    def start_all(self) -> None:
        """Start every process."""
        for name in COMMANDS:
            self.start(name)

    def start(self, name: str) -> None:
        """Start a process by its name."""
        command = [sys.executable, "-m", *COMMANDS[name]]
        self.running[name] = spawn(command, self._log(name), **self.variables)

    def terminate(self, name: str) -> int:
        """Ask a process to end, as a person does, and return its exit code."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_SECONDS)
        finally:
            process.kill()
            process.wait()

    @property
    def alive(self) -> dict[str, int]:
        """The process ids of those that run."""
        return {name: process.pid for name, process in self.running.items() if process.poll() is None}

    def mark_logs(self) -> None:
        """Have :meth:`find_lines` look only at what is printed from now on."""
        self.marks = {name: self._log(name).stat().st_size for name in self.running}

    def find_lines(self, name: str, text: str) -> list[str]:
        """The lines of a process's log that hold ``text``."""
        printed = self._log(name).read_bytes()[self.marks.get(name, 0) :]
        return [line for line in printed.decode(errors="replace").splitlines() if text in line]

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running.values():
            process.kill()
        for process in self.running.values():
            process.wait()

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.log"
