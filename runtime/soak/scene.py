"""The runtime that a soak breaks: its processes, its folder, and its broker as the person of the machine reaches it."""

import contextlib
import errno
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import psutil

from bus.access.login import OWNER
from bus.connection import BusSettings
from bus.failpoints import FAILPOINTS
from bus.storage.disk import describe_lack
from runtime.access import login_of
from runtime.agents import FACADE, default_agents
from runtime.composition import group_by_process
from runtime.soak import up, worker
from runtime.soak.clients import KEYS, TURN_SECONDS
from runtime.soak.isolation import Cable, is_isolated, mount_disk
from schemas.errors import SetupError

READY_SECONDS = 180.0
"""Longest wait for a runtime that starts; its stores may have to be made again."""

STOP_SECONDS = 15.0

DISK_MEGABYTES = 3000
"""Size of the data directory's file system, where the soak makes one."""

AGENTS = {"memory": {"projection_ack_wait": 4.0}}
"""What a memory that is killed held comes again after seconds, as in the stages of a turn."""

BROKER = "broker"

SUPERVISOR = "supervisor"


@dataclass
class SoakScene:
    """A runtime in a folder. Where the soak has namespaces, ``remote`` are the processes behind the ``cable``."""

    directory: Path
    cable: Cable | None
    remote: frozenset[str]
    http_port: int
    nats_port: int
    process: "subprocess.Popen[bytes] | None" = None
    starts: int = field(default=0)

    @property
    def http(self) -> str:
        """The facade's address."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def data_dir(self) -> Path:
        """Where the runtime keeps all that it has; a file system of its own where there are namespaces."""
        return self.directory / "data"

    @property
    def failpoints(self) -> Path:
        """The folder by which windows are armed and clocks are set (:mod:`bus.failpoints`)."""
        return self.directory / "failpoints"

    def start(self) -> None:
        """Start the runtime on what is left of the last one."""
        prefix = [] if self.cable is None else self.cable.prefix
        commands = {
            name: [*(prefix if name in self.remote else ()), sys.executable, "-m", *module]
            for name, module in modules().items()
        }
        variables = {
            "KIKI_DATA_DIR": str(self.data_dir),
            "KIKI_CONFIG": str(self.directory / "none.toml"),
            "KIKI_PORT": str(self.http_port),
            "KIKI_NATS_PORT": str(self.nats_port),
            "KIKI_API_KEYS": json.dumps(KEYS),
            "KIKI_TURN_TIMEOUT": str(TURN_SECONDS),
            "KIKI_HANG_TIMEOUT": "15",
            "KIKI_AGENTS": json.dumps(AGENTS),
            FAILPOINTS: str(self.failpoints),
            up.COMMANDS: json.dumps(commands),
        }
        self.starts += 1
        with (self.directory / "up.log").open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "runtime.soak.up"],
                env={**_read_environment(), **variables},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )

    def find_processes(self) -> dict[str, psutil.Process]:
        """The processes that run now: the supervisor, the broker, and the others by their names."""
        if self.process is None:
            return {}
        names = {tuple(module): name for name, module in modules().items()}
        running: dict[str, psutil.Process] = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            supervisor = psutil.Process(self.process.pid)
            running[SUPERVISOR] = supervisor
            for process in supervisor.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    words = process.cmdline()
                    if process.name().startswith("nats-server"):
                        running[BROKER] = process
                    elif "-m" in words and (name := names.get(tuple(words[words.index("-m") + 1 :]))):
                        running[name] = process
        return running

    def kill_everything(self) -> None:
        """kill -9 of all processes at once."""
        assert self.process is not None
        family = [*self.find_processes().values()]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        psutil.wait_procs(family, timeout=STOP_SECONDS)

    async def is_ready(self) -> bool:
        """Whether the facade says that a turn can be answered."""
        with contextlib.suppress(httpx.HTTPError):
            async with httpx.AsyncClient(base_url=self.http, timeout=20.0) as http:
                return (await http.get("/ready")).status_code == 200
        return False

    async def start_and_wait(self) -> None:
        """Start the runtime, again when it found no room, and wait until a turn can be answered.

        Raises:
            SetupError: the runtime has ended, or is not ready in time.
        """
        self.start()
        was_full = False
        with anyio.move_on_after(READY_SECONDS):
            while not await self.is_ready():
                was_full = was_full or bool(describe_lack(self.data_dir))
                if self._has_ended() and (was_full or os.strerror(errno.ENOSPC) in self._read_last_line()):
                    self.start()
                    was_full = False
                self.check_alive()
                await anyio.sleep(0.5)
            return
        raise SetupError(f"not ready after {READY_SECONDS:.0f} s; its logs are in {self.data_dir / 'logs'}.")

    def check_alive(self) -> None:
        """Raise a :class:`SetupError` with the supervisor's last line when it has ended by itself."""
        if self.process is not None and self._has_ended():
            line = self._read_last_line() or "its log is empty"
            raise SetupError(f"the runtime ended with {self.process.returncode}: {line}.")

    def _has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def _read_last_line(self) -> str:
        lines = (self.directory / "up.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    @property
    def broker(self) -> BusSettings:
        """How the person of the machine reaches the broker."""
        return BusSettings(url=f"nats://127.0.0.1:{self.nats_port}", login=login_of(self.data_dir / "nats", OWNER))

    def stop(self) -> None:
        """Stop the runtime as a person does."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
            if self.process.poll() is None:
                self.kill_everything()


def modules() -> dict[str, list[str]]:
    """The module of each process, with its arguments; the worker is scripted."""
    names = {name: ["runtime.child", *agents] for name, agents in group_by_process((*default_agents(), FACADE)).items()}
    return {**names, worker.NAME: ["runtime.soak.worker"]}


def _read_environment() -> dict[str, str]:
    """This process's variables without the settings of another runtime, but with the place where models are kept."""
    return {name: text for name, text in os.environ.items() if not name.startswith("KIKI_") or name == "KIKI_CACHE_DIR"}


@contextlib.contextmanager
def open_scene(directory: Path, dice: random.Random) -> Iterator[SoakScene]:
    """A scene whose runtime is not started yet; at the end all of it is stopped."""
    http_port, nats_port = _free_ports(2)
    (directory / "failpoints").mkdir(parents=True, exist_ok=True)
    cable = Cable(nats_port) if is_isolated() else None
    if is_isolated():
        mount_disk(directory / "data", DISK_MEGABYTES)
    others = sorted(modules().keys() - {FACADE})
    remote = frozenset(dice.sample(others, dice.randint(1, len(others)))) if cable is not None else frozenset()
    scene = SoakScene(directory, cable, remote, http_port, nats_port)
    try:
        yield scene
    finally:
        scene.stop()
        if cable is not None:
            cable.close()
            shutil.copytree(scene.data_dir / "logs", directory / "logs", dirs_exist_ok=True)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
