"""Room on a disk that a store writes to. It is refused early: a write that fails half-way may break the store."""

import os
from pathlib import Path

RESERVE = 64 * 1024**2
"""Bytes of a disk that stay free by default. A turn needs some kilobytes; a store's next file some megabytes."""

RESERVE_SHARE = 0.1
"""Of a small disk no more than this share stays free."""


def describe_lack(directory: Path, *, reserve: int = RESERVE, share: float = 1.0, need: int = 0) -> str:
    """Why nothing should be written in ``directory`` now; empty when there is room.

    Args:
        directory: any folder of the disk; it need not exist yet.
        reserve: bytes of the disk that stay free, of a small disk at most :data:`RESERVE_SHARE`.
        share: the part of the reserve that this writer leaves free. What must still be written when others already
            stopped leaves less.
        need: bytes that are about to be written.
    """
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    try:
        disk = os.statvfs(directory)
    except OSError as error:
        return f"{directory} cannot be read ({error.strerror})"
    if disk.f_flag & os.ST_RDONLY:
        return f"the disk of {directory} is read-only: mount it for writing"
    if disk.f_files and not disk.f_favail:
        return f"the disk of {directory} is full: it takes no more files; delete some"
    free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    least = share * min(reserve, RESERVE_SHARE * total) + need
    if free >= least:
        return ""
    return (
        f"the disk of {directory} is full: {free / 1024**2:.0f} MB are free, {least / 1024**2:.0f} MB are needed; "
        "free some space"
    )
