"""``kiki up``: starts the broker and the processes of agents and facade, restarts those that die, stops all of them.

Children get a session of their own, so a Ctrl-C in the terminal reaches only the supervisor, which then stops the
children first and the broker last. A child that exits with :data:`runtime.exits.SETUP_EXIT` is not restarted: its last
line becomes the error that the whole runtime ends with. One that gives no sign of life (:mod:`runtime.heartbeat`) is
killed and started again. The supervisor holds the data directory (:mod:`bus.broker.ownership`) for as long as it lives.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread
import structlog
from tenacity import wait_exponential_jitter

from bus import broker as server
from bus.broker import ownership
from bus.connection import connect
from bus.storage.disk import describe_lack
from bus.turns.readers import move_readers
from runtime import access, composition
from runtime.agents import FACADE, default_agents, guest_readers
from runtime.exits import SETUP_EXIT
from runtime.heartbeat import HEARTBEAT, Heartbeat
from runtime.process import HANGS, SUPERVISED
from runtime.settings import Settings, environment
from schemas.errors import SetupError, Unavailable

STOP_SECONDS = 3.0
"""Seconds that children have to end by themselves; with the broker's second, stopping takes less than five."""

STORAGE_SECONDS = 2.0
"""Seconds between two looks at whether the broker stores, and whether there is room to start it."""

STEADY_SECONDS = 30.0
"""What lived this long is restarted at once; after quick deaths in a row it waits longer each time."""

LEFTOVER_SECONDS = 10.0
"""Seconds that the processes of a killed supervisor have to end by themselves."""

CHILD_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
"""OpenMP's spinning barriers starve the other processes of a busy machine: one prefill took 12.4 s with them and
1.0 s without, on two cores."""

_log = structlog.get_logger("supervisor")
_wait = wait_exponential_jitter(multiplier=0.2, max=10.0, jitter=0.3)


@dataclass
class Deaths:
    """The deaths of one supervised process: all of them, and the last ones in a row within :data:`STEADY_SECONDS`."""

    count: int = 0
    quick: int = 0

    def add(self, lived: float) -> float:
        """Count one after so many seconds of life; the seconds to wait before the next start."""
        self.count += 1
        self.quick = 0 if lived > STEADY_SECONDS else self.quick + 1
        return _wait(_Attempt(self.quick)) if self.quick > 1 else 0.0  # type: ignore[arg-type]


@dataclass
class Child:
    """One supervised process and the agents that run in it. ``hangs`` counts how often it gave no sign of life."""

    name: str
    agents: tuple[str, ...]
    process: anyio.abc.Process | None = None
    deaths: Deaths = field(default_factory=Deaths)
    hangs: int = 0


@dataclass
class Supervisor:
    """Owns the processes of one runtime.

    ``names`` are its agents and the facade; :func:`runtime.composition.group_by_process` says which share a process.
    ``title`` is what others are told that holds the data directory. ``commands`` are run, by the name of the process,
    instead of ``python -m runtime.child AGENT...``.
    """

    settings: Settings
    names: tuple[str, ...] = field(default_factory=lambda: (*default_agents(), FACADE))
    title: str = "a runtime"
    commands: Mapping[str, Sequence[str]] = field(default_factory=dict)
    children: dict[str, Child] = field(default_factory=dict)
    broker: server.EmbeddedBroker | None = None
    failure: SetupError | None = None
    stopping: bool = False
    _held: ownership.Hold = field(init=False)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Supervisor"]:
        """Start everything; stop everything at the end, also after an error or a cancellation.

        Raises:
            SetupError: another process holds the data directory, the broker cannot start, or a child ended with
                :data:`runtime.exits.SETUP_EXIT`.
        """
        directory = self.settings.data_dir
        async with ownership.hold(directory, title=self.title) as self._held, anyio.create_task_group() as tasks:
            try:
                if self._held.previous is not None:
                    await end_leftovers(self._held.previous.children, directory)
                await self._start_broker(tasks)
                await self._move_readers()
                for name, agents in composition.group_by_process(self.names).items():
                    self.children[name] = Child(name, agents)
                    tasks.start_soon(self._keep_running, self.children[name], tasks.cancel_scope)
                yield self
            finally:
                with anyio.CancelScope(shield=True):
                    await self._stop()
                tasks.cancel_scope.cancel()
        if self.failure is not None:
            raise self.failure

    def log_path(self, name: str) -> Path:
        """The file that a child's output goes to; ``name`` is the child's, or that of an agent in it."""
        holders = (process for process, agents in composition.group_by_process(self.names).items() if name in agents)
        return self.settings.data_dir / "logs" / f"{next(holders, name)}.log"

    async def _start_broker(self, tasks: anyio.abc.TaskGroup) -> None:
        if self.settings.nats is not None:
            self._held.note(is_elsewhere=True)
            return
        self.broker = await self._start_server()
        self.settings = self.settings.model_copy(update={"nats_port": int(self.broker.url.rsplit(":", 1)[1])})
        self._held.note(url=self.broker.url)
        tasks.start_soon(self._keep_broker_running, tasks.cancel_scope)
        tasks.start_soon(self._keep_broker_storing)

    async def _move_readers(self) -> None:
        """Let stages read from the guests before them. The streams of turns of a broker of ours begin empty with it."""
        if self.settings.nats is not None:
            async with connect(composition.bus_settings(self.settings), name="kiki-up-readers") as bus:
                await bus.outage.wait(partial(move_readers, bus, guest_readers()))

    async def _start_server(self) -> server.EmbeddedBroker:
        payload = composition.choose_payload(self.settings)
        users = access.list_users(self._broker_directory, self.settings.prefix)
        return await server.start(
            self._broker_directory, port=self.settings.nats_port, max_payload=payload, users=users
        )

    async def _start_server_with_room(self) -> server.EmbeddedBroker:
        """Start the broker once its disk has room, and again when that was taken meanwhile."""
        while True:
            await self._wait_for_room()
            try:
                return await self._start_server()
            except SetupError as error:
                if not self._describe_lack():
                    raise
                _log.warning("broker not started", error=error.message)

    def _describe_lack(self) -> str:
        return describe_lack(self._broker_directory, reserve=self.settings.disk_reserve)

    @property
    def _broker_directory(self) -> Path:
        return self.settings.data_dir / "nats"

    async def _keep_broker_running(self, scope: anyio.CancelScope) -> None:
        deaths = Deaths()
        while self.broker is not None:
            started = anyio.current_time()
            await self.broker.process.wait()
            if self._is_stopping():
                return
            delay = deaths.add(anyio.current_time() - started)
            _log.error("broker died", pid=self.broker.pid, delay=round(delay, 1))
            await anyio.sleep(delay)
            try:
                self.broker = await self._start_server_with_room()
            except SetupError as error:
                self._give_up(error, scope)
                return

    async def _keep_broker_storing(self) -> None:
        """End the broker, to be started again, when it refuses writes though there is room.

        A stream of nats-server takes nothing more once a write of it has failed, until the server is started again.
        """
        while True:
            await anyio.sleep(STORAGE_SECONDS)
            await self._wait_for_room()
            if self.broker is not None and (error := await self._read_write_error(self.broker)):
                _log.error("broker refuses to store", pid=self.broker.pid, error=error)
                await server.stop(self.broker.process)

    async def _read_write_error(self, broker: server.EmbeddedBroker) -> str:
        try:
            return await server.read_write_error(broker.monitor)
        except Unavailable:  # it is being started again, or too busy to answer; the next look tells
            return ""

    async def _wait_for_room(self) -> None:
        """Wait until the broker's disk has room; a broker that starts on a full one fails at its next write."""
        lack = ""
        while problem := self._describe_lack():
            if not lack:
                lack = problem
                _log.error("disk full", error=lack)
            await anyio.sleep(STORAGE_SECONDS)
        if lack:
            _log.info("disk has room")

    async def _keep_running(self, child: Child, scope: anyio.CancelScope) -> None:
        while not self._is_stopping():
            started = anyio.current_time()
            heartbeat = Heartbeat()
            try:
                process = child.process = await self._spawn(child, heartbeat)
                self._note_children()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._kill_when_hung, child, process, heartbeat)
                    code = await process.wait()
                    tasks.cancel_scope.cancel()
            finally:
                heartbeat.close()
            if self._is_stopping():
                return
            if code == SETUP_EXIT:
                self._give_up(SetupError(self._last_line(child.name)), scope)
                return
            delay = child.deaths.add(anyio.current_time() - started)
            _log.error("process died", name=child.name, code=code, delay=round(delay, 1))
            await anyio.sleep(delay)

    async def _kill_when_hung(self, child: Child, process: anyio.abc.Process, heartbeat: Heartbeat) -> None:
        if self.settings.debug:
            return  # it may stand at a breakpoint
        await heartbeat.wait_for_silence(self.settings.hang_timeout)
        child.hangs += 1
        _log.error("process hung", name=child.name, pid=process.pid, silent_seconds=self.settings.hang_timeout)
        with contextlib.suppress(ProcessLookupError):
            process.kill()

    def _note_children(self) -> None:
        """Leave a note of the children to the next holder of the directory, should this process be killed."""
        processes = [child.process for child in self.children.values()]
        self._held.note(children=tuple(process.pid for process in processes if process is not None))

    def _is_stopping(self) -> bool:
        # A method: of the attribute mypy would believe that it still is False after an await.
        return self.stopping

    def _give_up(self, error: SetupError, scope: anyio.CancelScope) -> None:
        self.failure = self.failure or error
        scope.cancel()

    async def _spawn(self, child: Child, heartbeat: Heartbeat) -> anyio.abc.Process:
        log = self.log_path(child.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        variables = {
            **environment(self.settings),
            SUPERVISED: "1",
            HEARTBEAT: str(heartbeat.writer),
            HANGS: str(child.hangs),
        }
        command = self.commands.get(child.name, (sys.executable, "-m", "runtime.child", *child.agents))
        try:
            with log.open("ab") as sink:
                return await anyio.open_process(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=sink,
                    stderr=sink,
                    env={**CHILD_ENVIRONMENT, **os.environ, **variables},
                    pass_fds=(heartbeat.writer,),
                    start_new_session=True,
                )
        finally:
            heartbeat.give()

    def _last_line(self, name: str) -> str:
        lines = self.log_path(name).read_text(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("kiki: ") if lines else f"{name} could not start, and its log is empty."

    async def _stop(self) -> None:
        self.stopping = True
        alive = [child.process for child in self.children.values() if child.process is not None]
        _apply_to_running(alive, lambda process: process.send_signal(signal.SIGTERM))
        with anyio.move_on_after(STOP_SECONDS):
            for process in alive:
                await process.wait()
        _apply_to_running(alive, lambda process: process.kill())
        for process in alive:
            await process.wait()
        if self.broker is not None:
            await server.stop(self.broker.process, grace=1.0)


@dataclass(frozen=True)
class _Attempt:
    """The one field of tenacity's state that its wait strategies read."""

    attempt_number: int


async def end_leftovers(pids: Sequence[int], directory: Path) -> None:
    """Wait until the processes of a killed supervisor have ended, which they do by themselves; kill those that hang."""
    if not pids:
        return
    import psutil

    left = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):  # it is gone, or its id is another user's by now
            process = psutil.Process(pid)
            variables = process.environ()
            if SUPERVISED in variables and variables.get("KIKI_DATA_DIR") == str(directory):
                left.append(process)
    _, hung = await anyio.to_thread.run_sync(partial(psutil.wait_procs, left, timeout=LEFTOVER_SECONDS))
    for process in hung:
        _log.warning("leftover process is killed", pid=process.pid)
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    await anyio.to_thread.run_sync(partial(psutil.wait_procs, hung, timeout=LEFTOVER_SECONDS))


def _apply_to_running(processes: list[anyio.abc.Process], act: Callable[[anyio.abc.Process], None]) -> None:
    for process in processes:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                act(process)
