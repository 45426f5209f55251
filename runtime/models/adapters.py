"""Adapters of a repository of the hub: which ones it holds, and putting them into the adapters folder.

Nothing half fetched is ever served: an adapter is fetched into a folder that begins with a dot, its digests are
compared with the hub's, and it moves to its name in one step.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from agents.shared.adapters.folders import CONFIG, MLX_WEIGHTS, PEFT_WEIGHTS, find_weights, name_of, survey_adapters
from agents.shared.adapters.offline import judge_newcomer
from agents.shared.adapters.verdicts import KeptVerdict, read_digest
from agents.shared.disk import sync_tree
from runtime.models import hub
from runtime.models.plan import LINE_BITS
from runtime.models.progress import ProgressReport, report_nothing
from runtime.models.store import free_bytes
from schemas.errors import SetupError

FETCHING = ".pull-"
"""Beginning of the name of a folder in which an adapter is fetched."""

REPLACED = ".replaced-"
"""Beginning of the name of a folder with the weights that a pull has replaced."""


@dataclass(frozen=True, kw_only=True)
class RemoteAdapter:
    """An adapter of a repository: the name that it will be served under, its folder there, its files and their bytes.

    ``sha256`` is the digest of its weights; None where the hub does not say.
    """

    name: str
    folder: str
    files: tuple[hub.ListedFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size or 0 for file in self.files)

    @property
    def sha256(self) -> str | None:
        """The digest of the weights."""
        return next(file.sha256 for file in self.files if PurePosixPath(file.name).name != CONFIG)


def find_adapters(listing: hub.Listing, scratch: Path, *, report: ProgressReport) -> tuple[RemoteAdapter, ...]:
    """The adapters of a repository, in the order of their folders.

    Their configurations, which are small, are fetched into ``scratch``: they may name the domain.

    Raises:
        SetupError: the repository holds no adapter, or the hub cannot be reached.
    """
    by_folder: dict[str, dict[str, hub.ListedFile]] = {}
    for file in listing.files:
        path = PurePosixPath(file.name)
        if path.name in (CONFIG, MLX_WEIGHTS, PEFT_WEIGHTS):
            by_folder.setdefault(str(path.parent), {})[path.name] = file
    adapters = []
    configs = [files[CONFIG] for files in by_folder.values() if CONFIG in files]
    hub.fetch_files(listing, configs, scratch, report=report)
    for folder, files in sorted(by_folder.items()):
        weights = files.get(MLX_WEIGHTS) or files.get(PEFT_WEIGHTS)
        if weights is not None and CONFIG in files:
            local = scratch / folder if folder != "." else scratch
            name = name_of(local) if folder != "." else _name_of_root(listing, local)
            adapters.append(RemoteAdapter(name=name, folder=folder, files=(files[CONFIG], weights)))
    if not adapters:
        raise SetupError(
            f"{listing.repository.name} holds no adapter: that is a folder with {CONFIG} and {MLX_WEIGHTS} (mlx-lm) or "
            f"{PEFT_WEIGHTS} (PEFT).",
            param="repository",
        )
    return tuple(adapters)


def choose_adapters(adapters: Sequence[RemoteAdapter], wanted: Sequence[str]) -> tuple[RemoteAdapter, ...]:
    """The adapters of these names, or of these folders in the repository; all of them when none is named.

    Raises:
        SetupError: there is none of a name, or two folders are one domain and neither is named by its folder.
    """
    chosen = list(adapters)
    if wanted:
        by_wish = {wish: [item for item in adapters if wish in (item.name, item.folder)] for wish in wanted}
        if missing := [wish for wish, matches in by_wish.items() if not matches]:
            names = ", ".join(sorted({item.name for item in adapters}))
            raise SetupError(f"the repository has no adapter '{missing[0]}': choose from {names}.", param="domain")
        chosen = [item for matches in by_wish.values() for item in matches]
    by_name: dict[str, list[RemoteAdapter]] = {}
    for item in chosen:
        by_name.setdefault(item.name, []).append(item)
    for name, rivals in by_name.items():
        if len({rival.folder for rival in rivals}) > 1:
            folders = " and ".join(rival.folder for rival in rivals)
            raise SetupError(f"{folders} are both '{name}': name the folder that you want.", param="domain")
    return tuple(rivals[0] for rivals in by_name.values())


def skip_present(adapters: Sequence[RemoteAdapter], folder: Path, *, replace: bool) -> tuple[RemoteAdapter, ...]:
    """The adapters that must be fetched: the others lie in ``folder`` with the same digest.

    Raises:
        SetupError: other weights lie there under a name, and ``replace`` is not given.
    """
    present = survey_adapters(folder).paths if folder.is_dir() else {}
    missing = []
    for adapter in adapters:
        path = present.get(adapter.name)
        weights = find_weights(path) if path is not None else None
        if weights is None:
            missing.append(adapter)
        elif adapter.sha256 != read_digest(weights):
            if not replace:
                raise SetupError(
                    f"{weights.parent} holds other weights for '{adapter.name}': move it away, or give --replace.",
                    param="domain",
                )
            missing.append(adapter)
    return tuple(missing)


def plan_pull(adapters: Sequence[RemoteAdapter], folder: Path) -> list[str]:
    """Lines that say what is going to be fetched, how much, and how long it takes.

    Raises:
        SetupError: the disk of ``folder`` has not as much room.
    """
    size = sum(adapter.size for adapter in adapters)
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if (free := free_bytes(place)) < size:
        raise SetupError(
            f"{size / 1e9:.2f} GB are to be fetched and {place} has {free / 1e9:.2f} GB free: free some space, or name "
            "fewer domains.",
            param="domain",
        )
    if not adapters:
        return [f"all of them lie in {folder} already, with the same digests"]
    lines = [f"fetched into {folder}, and judged before they are served:"]
    lines += [f"  {adapter.name}: {adapter.size / 1e6:.1f} MB from {adapter.folder}" for adapter in adapters]
    minutes = max(1, round(size * 8 / LINE_BITS / 60))
    return [*lines, f"  {size / 1e6:.0f} MB: about {minutes} min at {LINE_BITS / 1e6:.0f} Mbit/s"]


def pull_adapters(
    name: str,
    wanted: Sequence[str],
    folder: Path,
    *,
    replace: bool,
    say: Callable[[str], object],
    report: ProgressReport,
) -> list[tuple[RemoteAdapter, KeptVerdict]]:
    """Fetch adapters of the repository ``name`` into ``folder``, and judge each before it takes its place.

    What lies there already with the same digest is left; what an interrupted pull has fetched is used.

    Raises:
        SetupError: there is no such repository or adapter, the disk is too small, or the hub gives other bytes.
    """
    repository = hub.parse(name)
    if repository is None:
        raise SetupError(f"'{name}' is no id of the hub: give org/name or org/name@revision.", param="repository")
    listing = hub.list_files(repository)
    with tempfile.TemporaryDirectory() as configs:
        all_adapters = find_adapters(listing, Path(configs), report=report_nothing)
    chosen = choose_adapters(all_adapters, wanted)
    folder.mkdir(parents=True, exist_ok=True)
    missing = skip_present(chosen, folder, replace=replace)
    for line in plan_pull(missing, folder):
        say(line)
    return [(adapter, _pull(listing, adapter, folder, report=report)) for adapter in missing]


def _pull(listing: hub.Listing, adapter: RemoteAdapter, folder: Path, *, report: ProgressReport) -> KeptVerdict:
    """Fetch one adapter, judge it, and put it into its place unless it is refused."""
    scratch = folder / f"{FETCHING}{adapter.name}"
    hub.fetch_files(listing, adapter.files, scratch, report=report)
    fetched = scratch if adapter.folder == "." else scratch / adapter.folder
    named = folder / f"{FETCHING}ready" / adapter.name
    shutil.rmtree(named.parent, ignore_errors=True)
    named.parent.mkdir()
    fetched.rename(named)
    shutil.rmtree(scratch, ignore_errors=True)
    verdict = judge_newcomer(folder, named)
    if verdict.state != "refused":
        sync_tree(named)
        present = survey_adapters(folder).paths.get(adapter.name)
        if present is not None:
            present.rename(folder / f"{REPLACED}{present.name}-{verdict.sha256[:12]}")
        named.rename(folder / adapter.name)
    shutil.rmtree(named.parent)
    return verdict


def _name_of_root(listing: hub.Listing, local: Path) -> str:
    """The name of a repository that is one adapter: the domain in its configuration, or else the repository's name."""
    name = name_of(local)
    return listing.repository.repo.rpartition("/")[2] if name == local.name else name
