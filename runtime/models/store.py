"""The cache of ready models: built beside its place, moved there in one step, checked each time it is used.

A model is a directory with a manifest that names every file with size and sha256. What has no manifest, or
differs from it, is broken: it is built again, never served.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import platformdirs
from filelock import FileLock

from agents.shared.disk import sync
from runtime.models.progress import ProgressReport
from schemas.errors import SetupError

MANIFEST = "kiki-manifest.json"


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a model; ``size`` in bytes."""

    sha256: str
    size: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a ready model consists of. ``version`` changes whenever its source or conversion does."""

    name: str
    source: str
    version: str
    files: dict[str, FileEntry]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files.values())


def cache_home(override: Path | None = None) -> Path:
    """``override``, else ``KIKI_CACHE_DIR``, else the user's cache directory of this platform."""
    if override is not None:
        return override
    from_environment = os.environ.get("KIKI_CACHE_DIR")
    return (
        Path(from_environment).expanduser()
        if from_environment
        else Path(platformdirs.user_cache_dir("micro-kiki", appauthor=False))
    )


def place(home: Path, name: str) -> Path:
    """The directory of model ``name``; a hub id's slash becomes two dashes."""
    return home / "models" / name.replace("/", "--")


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bytes_under(folder: Path) -> int:
    """Bytes of all files under ``folder``; 0 without one. Others may write and move them meanwhile."""
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(directory, name)).st_size
    return total


def free_bytes(folder: Path) -> int:
    """Bytes that the disk of ``folder`` has free."""
    return shutil.disk_usage(folder).free


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of ``directory``; None when it is missing or unreadable."""
    try:
        return msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError):
        return None


def find_faults(directory: Path, *, version: str | None = None) -> list[str]:
    """What the quick check finds wrong in manifest, version, presence and sizes. It reads no file but the manifest."""
    current = read_manifest(directory)
    if current is None:
        return [f"{MANIFEST} is missing or unreadable"]
    if version is not None and current.version != version:
        return [f"version is {current.version}, expected {version}"]
    return [fault for name, entry in current.files.items() if (fault := _size_fault(directory / name, name, entry))]


def find_deep_faults(directory: Path, *, version: str | None = None, report: ProgressReport) -> list[str]:
    """What the quick check finds wrong; if nothing, the files whose sha256 differs."""
    current, problems = read_manifest(directory), find_faults(directory, version=version)
    if current is None or problems:
        return problems
    done = 0
    for name, entry in current.files.items():
        actual = sha256_of(directory / name)
        if actual != entry.sha256:
            problems.append(f"{name} has sha256 {actual[:12]}, expected {entry.sha256[:12]}")
        done += entry.size
        report("verify", done, current.size)
    return problems


def ensure(directory: Path, *, version: str, build: Callable[[], object]) -> Path:
    """The directory with a model in it. Where the quick check fails, one process builds it (see :func:`build`).

    Raises:
        SetupError: what ``build`` and :func:`hold_lock` raise.
    """
    if find_faults(directory, version=version):
        with hold_lock(directory):
            if find_faults(directory, version=version):
                build()
    return directory


def build(
    directory: Path,
    *,
    name: str,
    source: str,
    version: str,
    fill: Callable[[Path], None],
    expected: dict[str, str] | None = None,
    report: ProgressReport,
) -> Manifest:
    """Let ``fill`` write the model into a sibling directory, then move it into its place in one step.

    The caller must hold :func:`hold_lock`. When ``fill`` fails the sibling stays, so that a large download can resume.

    Raises:
        SetupError: a file does not have its ``expected`` sha256, or the directory cannot be written.
    """
    partial, aside = _partial_folder(directory), _broken_folder(directory)
    partial.mkdir(parents=True, exist_ok=True)
    try:
        fill(partial)
        new_manifest = _seal(partial, Manifest(name=name, source=source, version=version, files={}), report)
    except OSError as error:
        raise SetupError(f"cannot write {partial}: {error.strerror or error}; free some space or mend it.") from error
    for file, sha256 in (expected or {}).items():
        if (entry := new_manifest.files.get(file)) is None or entry.sha256 != sha256:
            shutil.rmtree(partial)
            raise SetupError(f"{name}: {file} has sha256 {entry and entry.sha256}, expected {sha256}.")
    # os.replace() refuses a directory that is not empty, so the old one is moved aside first.
    shutil.rmtree(aside, ignore_errors=True)
    if directory.exists():
        os.replace(directory, aside)
    os.replace(partial, directory)
    sync(directory.parent)
    shutil.rmtree(aside, ignore_errors=True)
    return new_manifest


def download_folder(directory: Path) -> Path:
    """Where the downloads of a model wait until it is built: beside its place."""
    return directory.with_name(f".{directory.name}.download")


def leavings(directory: Path) -> tuple[Path, ...]:
    """All folders that a model can have: its place, and those of an interrupted build or download."""
    return (directory, _partial_folder(directory), _broken_folder(directory), download_folder(directory))


def remove(directory: Path) -> int:
    """Delete a model with all its :func:`leavings`, under its lock; returns the bytes that were freed.

    Raises:
        SetupError: it cannot be deleted.
    """
    with hold_lock(directory):
        freed = sum(bytes_under(folder) for folder in leavings(directory))
        try:
            for folder in leavings(directory):
                if folder.exists():
                    shutil.rmtree(folder)
        except OSError as error:
            raise SetupError(f"cannot delete {directory}: {error.strerror or error}.") from error
    return freed


def _partial_folder(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.partial")


def _broken_folder(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.broken")


@contextlib.contextmanager
def hold_lock(directory: Path) -> Iterator[None]:
    """Hold the model's lock across processes.

    Raises:
        SetupError: the cache directory cannot be written.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory.with_name(f".{directory.name}.lock"))
        lock.acquire()
    except OSError as error:
        raise SetupError(
            f"the cache {directory.parent} cannot be written ({error.strerror or error}): set KIKI_CACHE_DIR."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _size_fault(path: Path, name: str, entry: FileEntry) -> str | None:
    try:
        size = path.stat().st_size
    except OSError:
        return f"{name} is missing"
    return None if size == entry.size else f"{name} has {size} bytes, expected {entry.size}"


def _seal(directory: Path, blank: Manifest, report: ProgressReport) -> Manifest:
    """Hash and sync every file, then write the manifest last."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST)
    total, done, files = sum(path.stat().st_size for path in paths), 0, {}
    for path in paths:
        size = path.stat().st_size
        files[path.relative_to(directory).as_posix()] = FileEntry(sha256=sha256_of(path), size=size)
        path.chmod(0o644)
        sync(path)
        done += size
        report("check", done, total)
    new_manifest = msgspec.structs.replace(blank, files=files)
    path = directory / MANIFEST
    path.write_bytes(msgspec.json.format(msgspec.json.encode(new_manifest)))
    for target in (path, directory):
        sync(target)
    return new_manifest
