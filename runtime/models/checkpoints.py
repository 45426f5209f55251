"""Router checkpoints by path or hub id: ``meta.json`` and one safetensors file, in a format that the router reads."""

from pathlib import Path

from runtime.models import hub, store
from runtime.models.progress import ProgressReport, report_nothing
from schemas.errors import SetupError


def router_checkpoint(name: str, *, cache_dir: Path | None = None, progress: ProgressReport = report_nothing) -> Path:
    """The folder of a router checkpoint; ``org/name`` or ``org/name@revision`` is fetched once into the cache.

    Raises:
        SetupError: it cannot be had, or is no checkpoint; one line says why and how to mend it.
    """
    local = Path(name).expanduser()
    if local.exists() or name.startswith((".", "/", "~")):
        return _check_checkpoint(local)
    repository = hub.parse(name)
    if repository is None:
        raise SetupError(f"'{name}' is neither a folder nor a hub id like org/name.", param="checkpoint")
    directory = hub.ensure(repository, store.cache_home(cache_dir), check=_check_checkpoint, report=progress)
    return _check_checkpoint(directory)


def _check_checkpoint(directory: Path) -> Path:
    if not directory.is_dir():
        raise SetupError(f"no router checkpoint at {directory}.", param="checkpoint")
    if not (directory / "meta.json").is_file() or not any(directory.glob("*.safetensors")):
        raise SetupError(
            f"{directory} is no router checkpoint: it needs meta.json and a safetensors file; pickles are not read.",
            param="checkpoint",
        )
    return directory
