"""Syncing files to disk, and replacing them whole. A rename is durable only once its directory is synced, too."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def sync(path: Path) -> None:
    """Sync one file or one directory to disk. It blocks, so call it on a thread that nothing else waits for.

    Raises:
        OSError: the disk refuses.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """Sync a directory with all files and directories in it. See :func:`sync`.

    Raises:
        OSError: the disk refuses.
    """
    for path in (*directory.rglob("*"), directory):
        sync(path)


@contextlib.contextmanager
def replace_file(file: Path) -> Iterator[Path]:
    """A path beside ``file`` to write to; at the end what is there takes the place of ``file`` in one step.

    The directory is made. Nothing is synced: a file that a crash of the machine may lose must be one that can be made
    again.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.stem}.{os.getpid()}{file.suffix}")
    try:
        yield temporary
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
