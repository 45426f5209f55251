"""Adapters that wait beside the one in use, and the exchange with it: on disk, in the bank, on the model's thread.

A staged adapter is a folder of its own, registered under its own name while it is judged. The exchange renames its file
over the one in use, which is one step for the file system; whoever dies meanwhile leaves the old file or the new one.
Rows that are being decoded keep the pairs that they began with.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Collection
from pathlib import Path

from agents.inference.adapters.bank import AdapterBank
from agents.inference.adapters.files import CONFIG, WEIGHTS
from agents.inference.failures import failed
from schemas.errors import KikiError, Refused, StageFailed
from schemas.findings import AdapterUse

MARK = ".staged-"
LEFT_SECONDS = 3600.0
"""Age at which a staged adapter counts as left behind; other workers may share the folder and be at work."""


def staged_name(name: str, digest: str) -> str:
    """The name under which weights of this digest wait beside ``name``."""
    return f"{name[:100]}{MARK}{digest[:12]}"


def stage(folder: Path, name: str, data: bytes) -> str:
    """Write a staged adapter with the configuration of ``name``; what is there already stays. Returns its name.

    Raises:
        StageFailed: code ``adapter_failed``: ``name`` is not an adapter in mlx-lm's layout.
    """
    source = own_folder(folder, name)
    staged = folder / staged_name(name, hashlib.sha256(data).hexdigest())
    if staged.is_dir():
        return staged.name
    fresh = folder / f".{staged.name}.{os.getpid()}"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    shutil.copyfile(source / CONFIG, fresh / CONFIG)
    with (fresh / WEIGHTS).open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(staged)
    return staged.name


def discard(folder: Path, staged: str) -> bool:
    """Remove a staged adapter's files. Returns whether they were there; anything else is left alone.

    Raises:
        StageFailed: code ``adapter_failed``: it is not a staged adapter's name.
    """
    if MARK not in staged:
        raise failed(staged, "it is in use and was never staged")
    there = (folder / staged).is_dir()
    shutil.rmtree(folder / staged, ignore_errors=True)
    return there


def sweep(folder: Path, *, now: float) -> list[str]:
    """Remove what swaps that died left behind more than :data:`LEFT_SECONDS` ago. Returns the names."""
    found = [path for path in folder.iterdir() if MARK in path.name and now - path.stat().st_mtime > LEFT_SECONDS]
    for path in found:
        shutil.rmtree(path, ignore_errors=True)
    return sorted(path.name for path in found)


def exchange(bank: AdapterBank, name: str, staged: str, base: str, *, taken: Collection[int], used: bool) -> float:
    """Put the staged weights in the place of the adapter's, whose digest must be ``base``.

    ``taken`` are the seats of running rows, ``used`` whether some of these rows use the adapter.

    Returns:
        Milliseconds that it took; 0 when the exchange was made before.

    Raises:
        StageFailed: code ``adapter_failed``, or ``invariant_broken`` when the adapter is not ``base`` any more.
        Refused: rows use an adapter that is too large to stand beside its successor.
    """
    folder = own_folder(bank.folder, name)
    began = time.perf_counter()
    current = bank.load(name)
    if staged_name(name, current.sha256) == staged:
        return 0.0
    if current.sha256 != base:
        raise StageFailed(
            f"'{name}' is {current.sha256[:12]} by now, not {base[:12]}: begin again from what is in use.",
            code="invariant_broken",
            param="base_sha256",
        )
    if used and not bank.mixable((AdapterUse(name=name),)):
        raise Refused(f"requests use '{name}', which is too large to stand beside its successor: try again later.")
    new = bank.load(staged)
    live, following, before = folder / WEIGHTS, folder / f"{WEIGHTS}.next", folder / f"{WEIGHTS}.before"
    try:
        _link(folder.parent / staged / WEIGHTS, following)
        _link(live, before)
        following.replace(live)
    except OSError as error:
        raise failed(name, f"its file cannot be exchanged ({error})") from error
    try:
        bank.renew(name, new)
        bank.ready(name, taken=taken)
    except KikiError:
        before.replace(live)
        bank.renew(name, current)
        raise
    before.unlink(missing_ok=True)
    return (time.perf_counter() - began) * 1000


def own_folder(folder: Path | None, name: str) -> Path:
    """The folder of an adapter that can be consolidated.

    Raises:
        StageFailed: code ``adapter_failed``.
    """
    if folder is None or not (folder / name / WEIGHTS).is_file() or not (folder / name / CONFIG).is_file():
        raise failed(name, f"only registered adapters in mlx-lm's layout ({WEIGHTS}) can be consolidated")
    return folder / name


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    os.link(source, target)


def sync(folder: Path) -> None:
    """Have the directory itself on disk: a rename is durable only then. Not for the model's thread."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
