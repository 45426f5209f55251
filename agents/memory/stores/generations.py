"""Says which shard in Atlas's directory is in force, that is, the one to load; an optimised copy replaces it.

    atlas/current     the name of the shard in force; replaced in one step
    atlas/<number>/   a shard
    atlas.next/       a copy that is being optimised

A process that dies at any moment leaves the shard in force as it was; everything else in the directory is removed
at the next start.
"""

import shutil
from pathlib import Path

from agents.memory.stores.errors import BrokenStore
from agents.shared.disk import sync
from bus import failpoints

CURRENT = "current"


def first_shard(directory: Path) -> Path:
    """Path of the first shard, when none is in force yet."""
    return directory / "1"


def current_shard(directory: Path) -> Path:
    """The shard in force.

    Raises:
        BrokenStore: no shard is in force, or it is missing.
    """
    try:
        shard = directory / (directory / CURRENT).read_text().strip()
    except (OSError, ValueError) as error:
        raise BrokenStore(
            f"the atlas in {directory} has no readable '{CURRENT}' file ({error}): an earlier version made it, or "
            "it is damaged."
        ) from error
    if shard.parent != directory or not shard.is_dir():
        raise BrokenStore(f"the atlas in {directory} names a shard in '{CURRENT}' that does not exist.")
    return shard


def put_in_force(shard: Path) -> None:
    """Put the shard in force; the change is on disk when this returns."""
    name = shard.parent / f"{CURRENT}.new"
    name.write_text(shard.name)
    sync(name)
    failpoints.pass_window_in_thread("shard.named")
    name.replace(shard.parent / CURRENT)
    sync(shard.parent)


def copy_directory(directory: Path) -> Path:
    """Path of the copy that is being optimised."""
    return directory.with_name(f"{directory.name}.next")


def adopt(directory: Path) -> Path:
    """Move the copy beside the shard in force; it is not in force yet."""
    place = directory / str(int(current_shard(directory).name) + 1)
    shutil.rmtree(place, ignore_errors=True)  # left by an exchange that failed
    copy_directory(directory).rename(place)
    sync(directory)
    return place


def tidy(directory: Path) -> None:
    """Remove the copy, and all shards but the one in force: a process that died half-way left them."""
    shutil.rmtree(copy_directory(directory), ignore_errors=True)
    keep = current_shard(directory).name
    for path in directory.iterdir():
        if path.is_dir() and path.name != keep:
            shutil.rmtree(path, ignore_errors=True)
