"""Carries out an administrator's verbs on adapters: list, check, load, unload, activate. On the model's thread."""

import time
from collections.abc import Collection

from agents.inference.adapters.bank import AdapterBank
from agents.inference.adapters.files import Adapter
from agents.inference.failures import adapter_error, missing_adapter_error
from agents.shared.adapters.folders import STAGED
from agents.shared.adapters.verdicts import KeptVerdict
from schemas.adapters import AdapterInfo, AdapterListReply, VerdictState
from schemas.findings import AdapterUse

VERBS = ("check", "load", "unload", "activate")


def list_adapters(bank: AdapterBank) -> AdapterListReply:
    """Every registered adapter."""
    return AdapterListReply(
        adapters=tuple(_info(bank, name, bank.find_resident(name)) for name in bank.registered_names),
        budget=bank.budget,
    )


def perform(bank: AdapterBank, verb: str, name: str, *, busy_slots: Collection[int], sha256: str = "") -> AdapterInfo:
    """Carry out one of :data:`VERBS`; ``busy_slots`` are the slots of running rows, ``sha256`` is the expected digest.

    ``check`` reads and verifies the adapter, whatever the gates say of it, and keeps nothing. ``load`` makes it
    resident. ``activate`` also proves that it changes the logits, and gives it a seat, so that its first request need
    not wait for this. ``unload`` drops it.

    Raises:
        StageFailed: code ``adapter_not_found``, or ``adapter_failed``: not healthy, in use, or of another digest.
    """
    started = time.perf_counter()
    adapter: Adapter | None = None
    if verb == "check":
        adapter = bank.check(name)
    elif verb == "load":
        adapter = bank.load(name)
    elif verb == "activate":
        bank.seat((AdapterUse(name=name, sha256=sha256),), busy_slots=busy_slots)
        adapter = bank.find_resident(name)
    elif verb == "unload":
        if not bank.is_registered(name) and bank.find_resident(name) is None:
            raise missing_adapter_error(name)
        adapter = bank.find_resident(name)
        bank.unload(name, busy_slots=busy_slots)
    if sha256 and adapter is not None and adapter.sha256 != sha256:
        raise adapter_error(name, f"its sha256 is {adapter.sha256}, but {sha256} was asked for")
    return _info(bank, name, adapter, seconds=time.perf_counter() - started)


def _info(bank: AdapterBank, name: str, adapter: Adapter | None, *, seconds: float = 0.0) -> AdapterInfo:
    verdict = bank.registration.find_verdict(name) if name in bank.registration else None
    return AdapterInfo(
        name=name,
        resident=bank.find_resident(name) is not None,
        seated=any(use.name == name for uses in bank.seated_sets for use in uses),
        active=any(use.name == name for use in bank.active),
        sha256=adapter.sha256 if adapter else "",
        bytes=adapter.nbytes if adapter else 0,
        modules=len(adapter.pairs) if adapter else 0,
        seconds=seconds,
        norm=adapter.norm if adapter else None,
        verdict=_read_state(bank, name, verdict),
        refusal=verdict.message if verdict is not None and verdict.state == "refused" else "",
    )


def _read_state(bank: AdapterBank, name: str, verdict: KeptVerdict | None) -> VerdictState | None:
    """What the gates say; weights that nobody has read yet wait."""
    if bank.registration.verdicts is None or STAGED in name:
        return None
    return "waiting" if verdict is None else verdict.state
