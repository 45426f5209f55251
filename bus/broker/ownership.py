"""Who holds a data directory: one process at a time, by a lock that the kernel frees however the process ends.

The lock is ``flock`` on one file, which is never deleted. The holder writes into it who it is and where its broker
listens, so that others find the broker; what a killed holder wrote is worth nothing, because its lock is free.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import msgspec

from bus.access.users import make_private
from bus.metrics import count_degraded
from schemas.errors import SetupError

LOCK = "runtime.lock"

PATIENCE = 1.0
"""Seconds that a holder is waited for: it may be about to end, or only look who holds the directory."""

_NOTE_BYTES = 64 * 1024


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """The process that holds a directory.

    Attributes:
        title: what it is, as in ``kiki up``.
        pid: its process id.
        url: its broker's address; empty while that starts, or when the broker is elsewhere.
        is_elsewhere: the holder uses a NATS server that it did not start, and whose address may be secret.
        children: process ids of what it has started and must not outlive it.
    """

    title: str
    pid: int
    url: str = ""
    is_elsewhere: bool = False
    children: tuple[int, ...] = ()

    def __str__(self) -> str:
        broker = f", broker {self.url}" if self.url else ""
        return f"'{self.title}' (process {self.pid}{broker})"


UNKNOWN = Holder(title="a process that is starting", pid=0)
"""A holder that has not written yet who it is."""


class Hold:
    """A held directory. ``previous`` is the holder that was killed before it could let go; None without one."""

    def __init__(self, file: int, directory: Path, holder: Holder) -> None:
        self._file, self._directory, self._holder = file, directory, holder
        self.previous = _read(file)
        _write(file, msgspec.json.encode(holder))

    def note(self, **changes: Any) -> None:
        """Write down what the holder has started: fields of :class:`Holder`; the others stay as they are."""
        self._holder = msgspec.structs.replace(self._holder, **changes)
        try:
            _write(self._file, msgspec.json.encode(self._holder))
        except OSError as error:
            count_degraded("ownership.note", f"{self._directory / LOCK} cannot be written: {error!r}")


@contextlib.asynccontextmanager
async def hold(directory: Path, *, title: str) -> AsyncIterator[Hold]:
    """Hold the directory, which is made if need be, in this context; ``title`` tells others what holds it.

    Raises:
        SetupError: another process holds it, or it cannot be written.
    """
    try:
        make_private(directory)
        file = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise unwritable(directory, error) from error
    try:
        await _acquire(file, directory)
        try:
            held = Hold(file, directory, Holder(title=title, pid=os.getpid()))
        except OSError as error:
            raise unwritable(directory, error) from error
        try:
            yield held
        finally:
            with contextlib.suppress(OSError):  # a note that stays is taken for one of a holder that was killed
                _write(file, b"")
    finally:
        os.close(file)  # frees the lock: no child inherits the file


def find_holder(directory: Path) -> Holder | None:
    """The process that holds the directory now; None when nobody does, or when it cannot be read."""
    try:
        file = os.open(directory / LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(file) or UNKNOWN
    except OSError:  # a file system without locks, on which nobody can hold anything
        return None
    finally:
        os.close(file)
    return None


def unwritable(directory: Path, error: OSError) -> SetupError:
    """What is said of a directory that cannot be written."""
    return SetupError(
        f"cannot write {directory} ({error.strerror}): free the disk, mend its permissions or set KIKI_DATA_DIR.",
        param="data_dir",
    )


async def _acquire(file: int, directory: Path) -> None:
    with anyio.move_on_after(PATIENCE):
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await anyio.sleep(0.05)
            except OSError as error:
                raise SetupError(
                    f"{directory} cannot be locked ({errno.errorcode.get(error.errno or 0, error)}): set KIKI_DATA_DIR "
                    "to a folder on a disk of this machine.",
                    param="data_dir",
                ) from error
            else:
                return
    raise SetupError(
        f"{directory} is held by {_read(file) or UNKNOWN}: stop that first, or set another data directory with "
        "KIKI_DATA_DIR.",
        param="data_dir",
    )


def _read(file: int) -> Holder | None:
    try:
        return msgspec.json.decode(os.pread(file, _NOTE_BYTES, 0), type=Holder)
    except (OSError, msgspec.MsgspecError):  # empty, or half written
        return None


def _write(file: int, note: bytes) -> None:
    os.pwrite(file, note, 0)
    os.ftruncate(file, len(note))
