"""Stages an adapter's new weights beside the one in use, and exchanges the two on disk and in the bank.

A staged adapter is a folder of its own, registered under its own name while it is judged. The exchange
renames its file over the one in use, which is atomic; a process that dies meanwhile leaves the old file or the new one.
It runs on the model's thread. Rows that are being decoded keep the pairs that they began with.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Collection
from pathlib import Path

from agents.inference.adapters.bank import AdapterBank
from agents.inference.adapters.files import CONFIG, WEIGHTS
from agents.inference.adapters.registration import RegisteredAdapters
from agents.inference.failures import adapter_error
from agents.shared.adapters.folders import STAGED, read_config, survey_adapters
from agents.shared.adapters.verdicts import read_digest
from agents.shared.disk import sync
from schemas.consolidation import StageReply, StageRequest
from schemas.errors import KikiError, Refused, StageFailed
from schemas.findings import AdapterUse

REPLACED = "replaced.safetensors"
"""The file that an exchange has replaced, in the staged adapter's folder until that is discarded."""

LEFT_SECONDS = 3600.0
"""Age in seconds at which a staged adapter counts as left behind; a younger one may be another worker's, in use."""


def staged_name(name: str, digest: str) -> str:
    """The name of the staged adapter with weights of this digest for ``name``."""
    return f"{name[:100]}{STAGED}{digest[:12]}"


def stage(folder: Path, name: str, data: bytes) -> str:
    """Write a staged adapter with the configuration of ``name``; one that exists is kept. Returns its name.

    Raises:
        StageFailed: code ``adapter_failed``: ``name`` is not an adapter in mlx-lm's layout.
    """
    source = adapter_folder(folder, name)
    target = folder / staged_name(name, hashlib.sha256(data).hexdigest())
    if target.is_dir():
        return target.name
    temporary = folder / f".{target.name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    config = read_config(source)
    config.pop("domain", None)  # else the staged one would be served in the adapter's place
    (temporary / CONFIG).write_text(json.dumps(config))
    (temporary / WEIGHTS).write_bytes(data)
    sync(temporary / WEIGHTS)
    temporary.rename(target)
    return target.name


def stage_present(registration: RegisteredAdapters, request: StageRequest) -> StageReply:
    """Stage the weights that lie under the name itself, by links to its files, so that they can be judged.

    Raises:
        StageFailed: code ``adapter_not_found``; or ``adapter_failed``, ``param`` sha256, when other weights lie there.
    """
    source, weights = registration.find_folder(request.name), registration.find_file(request.name)
    if (sha256 := read_digest(weights)) != request.weights:
        raise StageFailed(
            f"'{request.name}' has digest {sha256[:12]} by now, not {request.weights[:12]}: propose it again.",
            code="adapter_failed",
            param="sha256",
        )
    target = source.parent / staged_name(request.name, sha256)
    if not target.is_dir():
        temporary = source.parent / f".{target.name}.{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for file in (source / CONFIG, weights):
            _link(file, temporary / file.name)
        temporary.rename(target)
    return StageReply(staged=target.name, sha256=sha256, bytes=weights.stat().st_size)


def discard(folder: Path, name: str) -> bool:
    """Remove a staged adapter's files. Returns whether they existed.

    Raises:
        StageFailed: code ``adapter_failed``: it is not a staged adapter's name.
    """
    if STAGED not in name:
        raise adapter_error(name, "it is in use and was never staged")
    existed = (folder / name).is_dir()
    shutil.rmtree(folder / name, ignore_errors=True)
    return existed


def sweep(folder: Path, *, now: float) -> list[str]:
    """Remove staged adapters older than :data:`LEFT_SECONDS`, left by swaps that died. Returns their names."""
    leftovers = [path for path in folder.iterdir() if STAGED in path.name and now - path.stat().st_mtime > LEFT_SECONDS]
    for path in leftovers:
        shutil.rmtree(path, ignore_errors=True)
    return sorted(path.name for path in leftovers)


def exchange(
    bank: AdapterBank, name: str, successor: str, base_sha256: str, *, busy_slots: Collection[int], is_used: bool
) -> float:
    """Put the staged weights in the place of the adapter's, whose digest must be ``base_sha256``.

    ``busy_slots`` are the slots of running rows, ``is_used`` says whether some of these rows use the adapter.

    Returns:
        Milliseconds that it took; 0 when the exchange was made before.

    Raises:
        StageFailed: code ``adapter_failed``, or ``invariant_broken`` when the adapter's digest is not ``base_sha256``
        any more. Refused: rows use an adapter that is too large to be resident together with its successor.
    """
    folder = adapter_folder(bank.folder, name)
    began = time.perf_counter()
    current = bank.load(name)
    if staged_name(name, current.sha256) == successor:
        return 0.0
    if current.sha256 != base_sha256:
        raise StageFailed(
            f"'{name}' has digest {current.sha256[:12]} by now, not {base_sha256[:12]}: export it again.",
            code="invariant_broken",
            param="base_sha256",
        )
    uses, new_uses = (AdapterUse(name=name),), (AdapterUse(name=successor),)
    if is_used and not (bank.mixable(uses) and bank.fit_together([uses, new_uses])):
        raise Refused(f"requests use '{name}', which is too large to be kept beside its successor: try again later.")
    successor_adapter = bank.load(successor)
    staged_folder, live_file = bank.registration.find_folder(successor), folder / WEIGHTS
    try:
        _link(live_file, staged_folder / REPLACED)
        _replace(staged_folder / WEIGHTS, live_file)
    except OSError as error:
        raise adapter_error(name, f"its file cannot be exchanged ({error})") from error
    try:
        bank.renew(name, successor_adapter)
        bank.prepare(name, busy_slots=busy_slots)
    except KikiError:
        _replace(staged_folder / REPLACED, live_file)
        bank.renew(name, current)
        raise
    return (time.perf_counter() - began) * 1000


def restore(bank: AdapterBank, name: str, successor: str, base_sha256: str, *, busy_slots: Collection[int]) -> str:
    """Put back the weights that an exchange has replaced; nothing is done when they are there already.

    Returns:
        The digest of the weights in use.

    Raises:
        StageFailed: code ``adapter_failed``; or ``invariant_broken`` when the adapter's weights are neither.
    """
    folder = adapter_folder(bank.folder, name)
    current = bank.load(name)
    if current.sha256 == base_sha256:
        return base_sha256
    if staged_name(name, current.sha256) != successor:
        raise StageFailed(
            f"'{name}' has digest {current.sha256[:12]} by now, which is not the one to undo.",
            code="invariant_broken",
            param="staged",
        )
    try:
        _replace(bank.registration.find_folder(successor) / REPLACED, folder / WEIGHTS)
    except OSError as error:
        raise adapter_error(name, f"its earlier file cannot be put back ({error})") from error
    restored = bank.load(name)
    bank.prepare(name, busy_slots=busy_slots)
    return restored.sha256


def adapter_folder(folder: Path | None, name: str) -> Path:
    """The folder of an adapter that can be consolidated.

    Raises:
        StageFailed: code ``adapter_failed``.
    """
    path = survey_adapters(folder).paths.get(name) if folder is not None else None
    if path is None or not (path / WEIGHTS).is_file():
        raise adapter_error(name, f"only registered adapters in mlx-lm's layout ({WEIGHTS}) can be consolidated")
    return path


def _replace(source: Path, target: Path) -> None:
    """Give ``target`` the file of ``source`` in one step; the source stays."""
    _link(source, target.with_name(f"{WEIGHTS}.next"))
    target.with_name(f"{WEIGHTS}.next").replace(target)


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    os.link(source, target)
