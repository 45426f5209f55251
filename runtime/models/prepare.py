"""Finds or makes the ready directory of a name, hub id or path; the verbs of ``kiki models``."""

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from runtime.models import hub, store
from runtime.models.artifacts import fetch_artifact
from runtime.models.catalog import CATALOG, CatalogModel
from runtime.models.convert import convert_gguf
from runtime.models.failures import SourceError
from runtime.models.progress import ProgressReport, report_nothing
from schemas.errors import SetupError

GGUF_RECIPE = 1
"""Version of the conversion of a local GGUF file. Raise it to have older conversions made again."""

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json")
"""One of these files makes a directory's tokenizer."""


@dataclass(frozen=True, kw_only=True)
class ModelListing:
    """One line of ``kiki models ls``; ``size`` in bytes, of an absent model what is to be fetched."""

    name: str
    state: Literal["ready", "absent", "broken"]
    size: int
    source: str
    path: Path
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class ModelVerification:
    """One line of ``kiki models verify``; no problems means every file has its sha256."""

    name: str
    path: Path
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems


@dataclass(frozen=True, kw_only=True)
class ModelRemoval:
    """One line of ``kiki models rm``; ``size`` in bytes that were freed."""

    name: str
    size: int


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """The place of a model in the cache, whether it is there or not; any version is right where it is None."""

    name: str
    directory: Path
    version: str | None = None


def prepare(name: str, *, cache_dir: Path | None = None, progress: ProgressReport = report_nothing) -> Path:
    """The directory of a model, ready to load; fetched and converted if it is not in the cache yet.

    ``name`` is a name of the catalog, a local directory, a local GGUF file, or a hub id ``org/name`` with an optional
    ``@revision``. A ready model touches no network.

    Raises:
        SetupError: the model cannot be had; one line says why and how to mend it.
    """
    directory = find_ready(name, cache_dir=cache_dir)
    if directory is not None:
        return directory
    home = store.cache_home(cache_dir)
    report = _prefix_steps(Path(name).name if _is_gguf(name) else name, progress)
    if model := CATALOG.get(name):
        return _prepare_catalog(model, home, report)
    if _is_gguf(name):
        return _prepare_gguf(_gguf_entry(name, home), report)
    repository = hub.parse(name)
    assert repository is not None  # or find_ready() would have raised
    return hub.ensure(repository, home, check=check_directory, report=report)


def find_ready(name: str, *, cache_dir: Path | None = None) -> Path | None:
    """The directory of a model that is ready to load; None if it must be fetched. ``name`` as in :func:`prepare`.

    Raises:
        SetupError: there is no such model, or the directory does not hold one.
    """
    if entry := _find_entry(name, store.cache_home(cache_dir)):
        if _is_gguf(name) and not Path(entry.name).is_file():
            raise SetupError(f"no GGUF file at {entry.name}.", param="model")
        return None if store.find_faults(entry.directory, version=entry.version) else entry.directory
    if _is_path(name):
        return check_directory(Path(name).expanduser())
    raise SetupError(
        f"no model '{name}': expected one of {', '.join(CATALOG)}, a directory, a GGUF file, or a hub id org/name.",
        param="model",
    )


def find_failure(name: str, *, cache_dir: Path | None = None) -> str | None:
    """Why a model of the catalog could not be had at the last try; None if it could, or was never tried."""
    if name not in CATALOG:
        return None
    note = _failure_note(store.place(store.cache_home(cache_dir), name))
    return note.read_text(encoding="utf-8") if note.is_file() else None


def remove(names: Iterable[str], *, cache_dir: Path | None = None) -> list[ModelRemoval]:
    """Delete models and what interrupted downloads of them left; only what lies in the cache.

    Raises:
        SetupError: one of ``names`` is not in the cache; nothing was deleted.
    """
    home = store.cache_home(cache_dir)
    entries = {name: _find_entry(name, home) or _find_by_folder(name, home) for name in names}
    for name, entry in entries.items():
        if entry is None or not any(path.exists() for path in store.leavings(entry.directory)):
            raise SetupError(f"'{name}' is not in the cache {home}: 'kiki models ls' lists what is.", param="model")
    removals = []
    for name, entry in entries.items():
        assert entry is not None  # or it would have been refused
        removals.append(ModelRemoval(name=name, size=store.remove(entry.directory)))
        _failure_note(entry.directory).unlink(missing_ok=True)
    return removals


def pull(
    names: Iterable[str], *, cache_dir: Path | None = None, progress: ProgressReport = report_nothing
) -> list[ModelListing]:
    """Prepare each of ``names`` and return their listings.

    Raises:
        SetupError: one of them cannot be had.
    """
    models = []
    for name in names:
        directory = prepare(name, cache_dir=cache_dir, progress=progress)
        size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
        models.append(
            ModelListing(name=name, state="ready", size=size, source=_source(name, directory), path=directory)
        )
    return models


def list_models(*, cache_dir: Path | None = None) -> list[ModelListing]:
    """The catalog, then whatever else lies in the cache."""
    home = store.cache_home(cache_dir)
    lines = [
        _describe_model(
            model.name,
            store.place(home, model.name),
            source=model.source,
            version=model.version,
            absent_size=model.size,
        )
        for model in CATALOG.values()
    ]
    for directory in sorted((home / "models").glob("[!.]*")):
        if directory.name not in CATALOG and directory.is_dir():
            manifest = store.read_manifest(directory)
            name, source = (manifest.name, manifest.source) if manifest else (directory.name, "unknown")
            lines.append(_describe_model(name, directory, source=source))
    return lines


def verify(
    names: Iterable[str] | None = None, *, cache_dir: Path | None = None, progress: ProgressReport = report_nothing
) -> list[ModelVerification]:
    """Read every file of ``names`` (of all that is in the cache when None) and compare its sha256.

    What is found broken loses its manifest, so that the next :func:`prepare` builds it again.
    """
    selected_names = (
        list(names)
        if names is not None
        else [model.name for model in list_models(cache_dir=cache_dir) if model.state != "absent"]
    )
    home = store.cache_home(cache_dir)
    results = []
    for name in selected_names:
        entry = _find_entry(name, home)
        directory, version = (entry.directory, entry.version) if entry else (store.place(home, name), None)
        if not directory.is_dir():
            problems = ["it is not in the cache; 'kiki models pull' fetches it"]
        elif problems := store.find_deep_faults(directory, version=version, report=_prefix_steps(name, progress)):
            (directory / store.MANIFEST).unlink(missing_ok=True)
        results.append(ModelVerification(name=name, path=directory, problems=tuple(problems)))
    return results


def digest(directory: Path) -> str:
    """sha256 over names and contents of a model's files: from the manifest, else by reading them."""
    manifest = store.read_manifest(directory)
    if manifest is not None:
        digests = {name: entry.sha256 for name, entry in manifest.files.items()}
    else:
        paths = sorted([*directory.glob("*.safetensors"), *directory.glob("*.json")])
        digests = {path.name: store.sha256_of(path) for path in paths}
    lines = "".join(f"{digests[name]} {name}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


def vector_size(directory: Path) -> int | None:
    """Floats in a vector of an embedder, by its ``config.json``; None when that does not say."""
    try:
        size = json.loads((directory / "config.json").read_text())["hidden_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return size if isinstance(size, int) else None


def int8_folder(directory: Path, model_digest: str) -> Path:
    """Where the int8 weights of a ready model are kept: within it when it is in the cache, and goes with it."""
    home = store.cache_home()
    return directory / "int8" if home in directory.parents else home / "int8" / model_digest[:16]


def check_directory(directory: Path) -> Path:
    """``directory``, if it holds what a model needs.

    Raises:
        SetupError: it does not; the message names what is missing.
    """
    if not directory.is_dir():
        raise SetupError(f"no model directory at {directory}.", param="model")
    missing = [
        part
        for part, present in (
            ("config.json", (directory / "config.json").is_file()),
            ("*.safetensors", any(directory.glob("*.safetensors"))),
            ("a tokenizer (tokenizer.json)", any((directory / name).is_file() for name in TOKENIZERS)),
        )
        if not present
    ]
    if missing:
        raise SetupError(f"{directory} is not a model: it lacks {', '.join(missing)}.", param="model")
    return directory


def _find_entry(name: str, home: Path) -> CacheEntry | None:
    """The place in the cache of a catalog's name, a GGUF file or a hub id; None for anything else."""
    if model := CATALOG.get(name):
        return CacheEntry(name=name, directory=store.place(home, name), version=model.version)
    if _is_gguf(name):
        return _gguf_entry(name, home)
    if not _is_path(name) and (repository := hub.parse(name)):
        return CacheEntry(name=name, directory=store.place(home, repository.name))
    return None


def _find_by_folder(name: str, home: Path) -> CacheEntry | None:
    """What ``kiki models ls`` lists by the name of its folder, because its manifest is lost."""
    folders = {path.name: path for path in (home / "models").glob("[!.]*") if path.is_dir()}
    return CacheEntry(name=name, directory=folders[name]) if name in folders else None


def _is_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or Path(name).expanduser().exists()


def _is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf") and not Path(name).expanduser().is_dir()


def _gguf_entry(name: str, home: Path) -> CacheEntry:
    """The place of a converted GGUF file: one for each absolute path, with its size and time as the version."""
    path = Path(name).expanduser().absolute()
    key = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    version = None
    if path.is_file():
        status = path.stat()
        version = f"{GGUF_RECIPE}:{status.st_size}:{status.st_mtime_ns}"
    return CacheEntry(name=str(path), directory=store.place(home, f"{path.stem}-{key}"), version=version)


def _prepare_gguf(entry: CacheEntry, report: ProgressReport) -> Path:
    path, version = Path(entry.name), entry.version or ""

    def fill(target: Path) -> None:
        _empty(target)
        convert_gguf(path, target, report)

    build = partial(
        store.build,
        entry.directory,
        name=entry.name,
        source=f"file:{path}",
        version=version,
        fill=fill,
        report=report,
    )
    return store.ensure(entry.directory, version=version, build=build)


def _prepare_catalog(model: CatalogModel, home: Path, report: ProgressReport) -> Path:
    directory = store.place(home, model.name)
    downloads = store.download_folder(directory)

    def fill(target: Path) -> None:
        _empty(target)
        downloads.mkdir(exist_ok=True)
        model.build(fetch_artifact(model, downloads, report=report), target, report)

    def build() -> None:
        note = _failure_note(directory)
        note.unlink(missing_ok=True)
        try:
            store.build(
                directory,
                name=model.name,
                source=model.source,
                version=model.version,
                fill=fill,
                expected=model.expected,
                report=report,
            )
        except SourceError as error:
            note.write_text(error.message, encoding="utf-8")
            raise
        shutil.rmtree(downloads, ignore_errors=True)

    return store.ensure(directory, version=model.version, build=build)


def _failure_note(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.failure")


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def _describe_model(
    name: str, directory: Path, *, source: str, version: str | None = None, absent_size: int = 0
) -> ModelListing:
    if not directory.is_dir():
        return ModelListing(name=name, state="absent", size=absent_size, source=source, path=directory)
    manifest, problems = store.read_manifest(directory), store.find_faults(directory, version=version)
    state: Literal["ready", "broken"] = "broken" if problems else "ready"
    size = manifest.size if manifest else 0
    return ModelListing(name=name, state=state, size=size, source=source, path=directory, detail="; ".join(problems))


def _source(name: str, directory: Path) -> str:
    manifest = store.read_manifest(directory)
    return manifest.source if manifest else f"path:{name}"


def _prefix_steps(name: str, report: ProgressReport) -> ProgressReport:
    """A report that puts the model's name before each step."""

    def report_step(step: str, done: int, total: int) -> None:
        report(f"{name}: {step}", done, total)

    return report_step
