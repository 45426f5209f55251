"""A training under way: its checkpoints and losses beside its future place, and the lock that keeps others out.

``<adapters>/.training/<domain>/`` holds ``run.json`` (what is trained from what), ``losses.jsonl``, and a folder
``from-NNNNNNN`` for each process that trained, named by the iterations that were done when it began. mlx-lm numbers its
checkpoints from the process's start, so the sum of both numbers is what a checkpoint has behind it.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.shared.adapters.folders import read_header
from schemas.errors import Refused, SetupError

FOLDER = ".training"
LOCK = "training.lock"

_ATTEMPT = re.compile(r"from-(\d+)")
_CHECKPOINT = re.compile(r"(\d+)_adapters\.safetensors")
_NOTE_BYTES = 4096


@contextlib.contextmanager
def training_lock(data_dir: Path, *, title: str) -> Iterator[int]:
    """Hold the lock of a data directory while something is trained; ``title`` tells others what.

    The context gives the lock's file descriptor. A child process that inherits it holds the lock as well, so that a
    trainer whose parent was killed keeps the next one out until it has ended. The kernel frees it in any case.

    Raises:
        Refused: another training runs; the message names it.
        SetupError: the directory cannot be written.
    """
    path = data_dir / LOCK
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SetupError(f"cannot write {path} ({error.strerror}).", param="data_dir") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(descriptor, _NOTE_BYTES, 0).decode(errors="replace") or "a training that is starting"
            raise Refused(
                f"{owner} is training here: domains are trained one after the other; wait for it, or stop it.",
                code="in_hand",
                param="domain",
            ) from error
        note = f"'{title}' (process {os.getpid()})".encode()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, note[:_NOTE_BYTES], 0)
        yield descriptor
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class TrainingCheckpoint:
    """Weights with so many iterations behind them; ``path`` None at the beginning."""

    iterations: int
    path: Path | None


class Workspace:
    """The folder of one domain's training. ``provenance`` is what it is trained from."""

    def __init__(self, adapters: Path, domain: str, provenance: dict[str, Any]) -> None:
        self.folder = adapters / FOLDER / domain
        self._domain, self._provenance = domain, provenance

    @property
    def losses_file(self) -> Path:
        """A line of JSON for each loss, which the training process appends."""
        return self.folder / "losses.jsonl"

    @property
    def staging(self) -> Path:
        """Where the finished adapter is put together."""
        return self.folder / "adapter"

    @property
    def replaced(self) -> Path:
        """Where the adapter that it replaces waits to be deleted."""
        return self.folder / "replaced"

    def open(self) -> bool:
        """Make the folder. What an earlier training of something else left in it is removed.

        Returns:
            Whether such a training was given up.

        Raises:
            OSError: it cannot be written.
        """
        run_file = self.folder / "run.json"
        try:
            left = json.loads(run_file.read_bytes())
        except (OSError, ValueError):
            left = None
        self._put_back()
        if left == self._provenance:
            return False
        had_begun = any(self.folder.glob("from-*"))
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        run_file.write_text(json.dumps(self._provenance), encoding="utf-8")
        return had_begun

    def find_checkpoint(self) -> TrainingCheckpoint:
        """The newest checkpoint that is whole; all others are removed, and losses of iterations after it forgotten."""
        newest = TrainingCheckpoint(0, None)
        paths = []
        for attempt in self.folder.glob("from-*"):
            begins = _ATTEMPT.fullmatch(attempt.name)
            for path in attempt.glob("*_adapters.safetensors"):
                number = _CHECKPOINT.fullmatch(path.name)
                if begins is None or number is None:
                    continue
                paths.append(path)
                done = int(begins[1]) + int(number[1])
                if done > newest.iterations and is_whole(path):
                    newest = TrainingCheckpoint(done, path)
        for path in paths:
            if path != newest.path:
                path.unlink()
        for path in self.folder.glob("from-*/adapters.safetensors"):
            path.unlink()
        losses = [loss for loss in self.read_losses() if loss["iteration"] <= newest.iterations]
        self.losses_file.write_text("".join(json.dumps(loss) + "\n" for loss in losses), encoding="utf-8")
        return newest

    def attempt_folder(self, begins: int) -> Path:
        """The folder of a process that begins after so many iterations."""
        return self.folder / f"from-{begins:07d}"

    def read_losses(self) -> list[dict[str, Any]]:
        """All losses; a line that a kill cut off is left out."""
        losses = []
        with contextlib.suppress(FileNotFoundError):
            for line in self.losses_file.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):
                    losses.append(json.loads(line))
        return losses

    def remove(self) -> None:
        """Delete the folder, and the one above it when it is empty."""
        self._put_back()
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()

    def _put_back(self) -> None:
        """The adapter that was moved away goes back when a kill came before its successor was in its place."""
        place = self.folder.parent.parent / self._domain
        if self.replaced.is_dir() and not place.exists():
            self.replaced.rename(place)


def is_whole(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    try:
        header = read_header(path)
        with path.open("rb") as file:
            begins = 8 + int.from_bytes(file.read(8), "little")
        ends = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        return bool(header) and path.stat().st_size == begins + ends
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False
