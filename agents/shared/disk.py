"""Having on disk what was written: a rename is durable only when its directory is."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Return when the file or the directory itself is on disk. Not for a thread that others wait for.

    Raises:
        OSError: the disk refuses.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
