"""Fetches the file of a catalog model from the first source that gives it, and lets nobody read it unverified.

What an interrupted try left in the model's download folder is used. The folder is deleted once the model is built.
"""

import shutil
from pathlib import Path

import structlog

from runtime.models.catalog import CatalogModel, Source
from runtime.models.failures import SourceError, WrongBytes
from runtime.models.progress import ProgressReport
from runtime.models.store import bytes_under, free_bytes, sha256_of
from schemas.errors import SetupError


def fetch_artifact(model: CatalogModel, folder: Path, *, report: ProgressReport) -> Path:
    """The model's file in ``folder``, with the pinned digest.

    Raises:
        SourceError: no source gives it; the message has the reason of each.
        SetupError: the disk has too little room; nothing was fetched.
    """
    target = folder / model.filename
    if target.exists() and _is_pinned(model, target):
        return target
    target.unlink(missing_ok=True)
    failures = []
    for source in model.sources:
        check_room(model, source, folder)
        try:
            _fetch_verified(model, source, target, report)
        except SourceError as error:
            failures.append(error)
            _log_failure(model, source, error)
            continue
        for other in folder.iterdir():
            if other != target:
                _remove(other)
        return target
    reasons = "; ".join(failure.message for failure in failures)
    raise SourceError(
        f"{model.name} cannot be had: {reasons}. Or give a local directory or a GGUF file (--model, KIKI_MODEL).",
        param="model",
    )


def check_room(model: CatalogModel, source: Source, folder: Path) -> None:
    """Refuse to begin what the disk cannot hold: the download, the joined file and the model that is built of it.

    Raises:
        SetupError: the message has both numbers.
    """
    needed = model.size + max(source.size, model.ready_size) - bytes_under(folder)
    free = free_bytes(folder)
    if free < needed:
        raise SetupError(
            f"{model.name} needs {needed / 1e6:.0f} MB in {folder.parent}, and {free / 1e6:.0f} MB are free: "
            "free some space, or set KIKI_CACHE_DIR elsewhere.",
            param="model",
        )


def _fetch_verified(model: CatalogModel, source: Source, target: Path, report: ProgressReport) -> None:
    """Fetch from one source. Bytes of an earlier try may be damaged, so with them a wrong file is fetched once more."""
    used_leftovers = source.fetch(target, report=report)
    if _is_pinned(model, target):
        return
    target.unlink()
    if used_leftovers:
        structlog.get_logger("kiki").warning("download damaged, fetching it again", model=model.name)
        source.fetch(target, report=report)
        if _is_pinned(model, target):
            return
        target.unlink()
    raise WrongBytes(
        f"{source.title} gives other bytes for {model.filename} than the pinned ones (sha256 {model.sha256[:12]}...): "
        "look at what stands before it"
    )


def _is_pinned(model: CatalogModel, path: Path) -> bool:
    return path.stat().st_size == model.size and sha256_of(path) == model.sha256


def _log_failure(model: CatalogModel, source: Source, error: SourceError) -> None:
    log = structlog.get_logger("kiki")
    write = log.error if isinstance(error, WrongBytes) else log.warning
    write("source failed", model=model.name, source=source.title, error=error.message)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
