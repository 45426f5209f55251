"""Syncing files to disk. A rename is durable only once its directory is synced, too."""

import os
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
