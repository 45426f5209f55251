"""A model of the Hugging Face hub, or a mirror of it (``HF_ENDPOINT``)."""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from runtime.models import store
from runtime.models.progress import ProgressReport
from schemas.errors import SetupError

_ID = re.compile(r"^(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?$")

PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""The files that are fetched: weights, configuration and tokenizer; never code."""

VERSION = "1"
"""Version of a cached repository. Raise it with :data:`PATTERNS`, so that repositories are fetched again."""


@dataclass(frozen=True, kw_only=True)
class Repository:
    """``org/name`` or ``org/name@revision``."""

    repo: str
    revision: str | None = None

    @property
    def name(self) -> str:
        """The id as the user gave it."""
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


def parse(text: str) -> Repository | None:
    """The repository that ``text`` names; None when it is not an id of the hub."""
    match = _ID.match(text)
    return Repository(repo=match["repo"], revision=match["revision"]) if match else None


def ensure(repository: Repository, home: Path, *, check: Callable[[Path], object], report: ProgressReport) -> Path:
    """The directory of the repository's files in the cache at ``home``; they are fetched if they are not there.

    ``check`` is called with the fetched directory and raises when it does not hold what is expected.

    Raises:
        SetupError: what :func:`fetch`, ``check`` and :func:`runtime.models.store.ensure` raise.
    """

    def fill(target: Path) -> None:
        fetch(repository, target, report=report)
        check(target)

    directory, name = store.place(home, repository.name), repository.name
    build = partial(store.build, directory, name=name, source=f"hub:{name}", version=VERSION, fill=fill, report=report)
    return store.ensure(directory, version=VERSION, build=build)


def fetch(repository: Repository, into: Path, *, report: ProgressReport) -> None:
    """Download the repository's files into ``into``; what an interrupted try left there is used.

    Raises:
        SetupError: no such repository or revision, no access, or the hub cannot be reached.
    """
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    report("hub", 0, 1)
    try:
        snapshot_download(
            repository.repo,
            revision=repository.revision,
            local_dir=into,
            allow_patterns=list(PATTERNS),
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, httpx.HTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SetupError(
            f"cannot fetch {repository.name} from the hub: {reason} "
            "Check the id, HF_TOKEN, HF_ENDPOINT and the network, or give a local directory."
        ) from error
    shutil.rmtree(into / ".cache", ignore_errors=True)
    report("hub", 1, 1)
