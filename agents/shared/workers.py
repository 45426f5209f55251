"""The running workers, each by its identity: asking one of them, or all, for what only it can do to its own files.

A request to ``adapters.<verb>`` is answered by any worker, one to ``adapters.<verb>.<worker>`` by that one.
"""

import os
import re
import socket
from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from bus.agent import gather_reports
from bus.connection import Bus
from schemas.adapters import AdapterListReply, AdapterListRequest
from schemas.calls import ADAPTERS_LS, Service

Q = TypeVar("Q", bound=msgspec.Struct | None)
R = TypeVar("R", bound=msgspec.Struct)

WORKER = "inference"
"""The agent that owns the model; its status names it in ``info["worker"]``."""


def name_worker() -> str:
    """The identity of a worker in this process: host and process id, fit for a subject."""
    host = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().split(".")[0].lower()).strip("-") or "host"
    return f"{host[:48]}-{os.getpid()}"


async def find_workers(bus: Bus) -> tuple[str, ...]:
    """Identities of the workers that answer now, sorted. One empty name stands for any worker, if none has an identity.

    Raises:
        Unavailable: the broker is away.
    """
    reports = await gather_reports(bus, expected=(WORKER,))
    names = {report.status.info.get("worker", "") for report in reports if report.status.agent == WORKER}
    return tuple(sorted(names - {""})) or ("",)


async def ask_worker(bus: Bus, worker: str, service: Service[Q, R], request: Q, *, timeout: float) -> R:
    """The answer of one worker; of any where ``worker`` is empty.

    Raises:
        KikiError: its refusal, or it is away.
    """
    return await bus.request(service.at(worker) if worker else service, request, timeout=timeout)


async def list_adapters(bus: Bus, *, timeout: float) -> list[AdapterListReply]:
    """What each running worker has.

    Raises:
        KikiError: no worker answers.
    """
    request = AdapterListRequest()
    return [await ask_worker(bus, worker, ADAPTERS_LS, request, timeout=timeout) for worker in await find_workers(bus)]


def describe_disagreement(name: str, digests: Mapping[str, str]) -> str:
    """One line that says which worker has which file, and the mend."""
    held = ", ".join(f"{worker} {digest[:12]}" for worker, digest in sorted(digests.items()))
    return f"workers disagree on '{name}': {held}; give them the same file"


def find_disagreements(listings: Sequence[AdapterListReply]) -> Mapping[str, Mapping[str, str]]:
    """The adapters whose files differ between workers: by name, the digest that each worker has read."""
    digests: dict[str, dict[str, str]] = {}
    for listing in listings:
        for info in listing.adapters:
            if info.sha256:
                digests.setdefault(info.name, {})[listing.worker] = info.sha256
    return {name: by_worker for name, by_worker in sorted(digests.items()) if len(set(by_worker.values())) > 1}
