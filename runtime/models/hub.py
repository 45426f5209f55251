"""Files of the Hugging Face hub, or of a mirror of it (``HF_ENDPOINT``).

huggingface_hub's own download does not resume after its process ended, and tries an address that has no name for 23 s;
so files are fetched here, with its token.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import msgspec

from runtime.models import store
from runtime.models.failures import (
    HUB_MEND,
    PROXY_MEND,
    Intercepted,
    SourceError,
    SourceOffline,
    SourceRefused,
    WrongBytes,
    explain_request,
    first_line,
)
from runtime.models.progress import ByteReport, ProgressReport, shift_report
from schemas.errors import SetupError

if TYPE_CHECKING:
    import httpx

_ID = re.compile(r"^(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?$")

PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""The files that are fetched: weights, configuration and tokenizer; never code."""

VERSION = "1"
"""Version of a cached repository. Raise it with :data:`PATTERNS`, so that repositories are fetched again."""

CONNECT_SECONDS, READ_SECONDS = 4.0, 20.0
FRUITLESS_TRIES = 3
"""A connection that breaks is taken up again until so many in a row brought nothing."""

_DEFAULT_ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True, kw_only=True)
class Repository:
    """``org/name`` or ``org/name@revision``."""

    repo: str
    revision: str | None = None

    @property
    def name(self) -> str:
        """The id as the user gave it."""
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """One file of ``size`` bytes in a repository of the hub: a source of the catalog."""

    repository: str
    filename: str
    size: int
    revision: str = "main"

    @property
    def title(self) -> str:
        """The hub's name in messages."""
        return _title()

    @property
    def record(self) -> str:
        """How the manifest records it."""
        return f"hub:{self.repository}/{self.filename}"

    def fetch(self, target: Path, *, report: ProgressReport) -> bool:
        """Write the file to ``target``; returns whether bytes of an earlier try were used.

        Raises:
            SourceError: the hub does not give a file of this size here.
        """
        with _connect() as client:
            url = _resolve_url(self.repository, self.revision, self.filename)
            return _download(
                client, url, target, size=self.size, report=shift_report(report, "from the hub", 0, self.size)
            )


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


class _LargeFile(msgspec.Struct):
    sha256: str


class _Sibling(msgspec.Struct):
    rfilename: str
    size: int | None = None
    lfs: _LargeFile | None = None


class _RepositoryInfo(msgspec.Struct):
    sha: str
    siblings: list[_Sibling]


@dataclass(frozen=True, kw_only=True)
class ListedFile:
    """A file of a repository; ``size`` in bytes, ``sha256`` where the hub knows it: of large files."""

    name: str
    size: int | None
    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of a repository at one commit."""

    repository: Repository
    commit: str
    files: tuple[ListedFile, ...]


def fetch(repository: Repository, into: Path, *, report: ProgressReport) -> None:
    """Download the repository's files into ``into``; what an interrupted try left there is used.

    Raises:
        SetupError: no such repository or revision, no access, or the hub cannot be reached.
    """
    listing = list_files(repository)
    wanted = [file for file in listing.files if any(fnmatch(file.name, name) for name in PATTERNS)]
    fetch_files(listing, wanted, into, report=report)


def list_files(repository: Repository) -> Listing:
    """The repository's files at the commit that its revision has now.

    Raises:
        SetupError: no such repository or revision, no access, or the hub cannot be reached.
    """
    with _explain(repository), _connect() as client:
        info = _read_info(client, repository)
    files = tuple(
        ListedFile(name=file.rfilename, size=file.size, sha256=file.lfs.sha256 if file.lfs else None)
        for file in info.siblings
    )
    return Listing(repository=repository, commit=info.sha, files=files)


def fetch_files(listing: Listing, files: Sequence[ListedFile], into: Path, *, report: ProgressReport) -> None:
    """Download files of a listing into ``into``, under their own names; what an interrupted try left there is used.

    Raises:
        SetupError: no access, other bytes than the listing says, or the hub cannot be reached.
    """
    total, done = sum(file.size or 0 for file in files), 0
    with _explain(listing.repository), _connect() as client:
        for file in files:
            _fetch_file(client, listing, file, into, shift_report(report, "from the hub", done, total))
            done += file.size or 0


@contextmanager
def _explain(repository: Repository) -> Iterator[None]:
    """Say which repository could not be had."""
    try:
        yield
    except SourceError as error:
        raise SetupError(
            f"cannot fetch {repository.name} from the hub: {error.message}. Or give a local directory.", param="model"
        ) from error


def _fetch_file(client: "httpx.Client", listing: Listing, file: ListedFile, into: Path, report: ByteReport) -> None:
    name = PurePosixPath(file.name)
    if name.is_absolute() or ".." in name.parts:
        raise WrongBytes(f"{_title()} names a file outside the repository: {name}")
    target = into / name
    target.parent.mkdir(parents=True, exist_ok=True)
    expected = file.sha256
    if target.exists() and expected is not None and store.sha256_of(target) == expected:
        return
    target.unlink(missing_ok=True)
    url = _resolve_url(listing.repository.repo, listing.commit, file.name)
    used_leftovers = True
    while used_leftovers:  # they may be damaged, or of another commit: then the file is fetched once more
        used_leftovers = _download(client, url, target, size=file.size, report=report)
        if expected is None or store.sha256_of(target) == expected:
            return
        target.unlink()
    raise WrongBytes(f"{_title()} gives other bytes for {name} than it says itself: look at what stands before it")


def _read_info(client: "httpx.Client", repository: Repository) -> _RepositoryInfo:
    import httpx

    revision = quote(repository.revision or "main", safe="")
    url = f"{_endpoint()}/api/models/{repository.repo}/revision/{revision}"
    try:
        response = client.get(url, params={"blobs": "true"})
    except httpx.RequestError as error:
        raise explain_request(error, _title()) from error
    _check_status(response, repository.name)
    try:
        return msgspec.json.decode(response.content, type=_RepositoryInfo)
    except msgspec.DecodeError as error:
        raise _not_the_hub(response) from error


def _endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or _DEFAULT_ENDPOINT).rstrip("/")


def _title() -> str:
    endpoint = _endpoint()
    return "the Hugging Face hub" if endpoint == _DEFAULT_ENDPOINT else f"the hub at {urlsplit(endpoint).netloc}"


def _resolve_url(repo: str, revision: str, filename: str) -> str:
    return f"{_endpoint()}/{repo}/resolve/{quote(revision, safe='')}/{quote(filename)}"


def _connect() -> "httpx.Client":
    import httpx
    from huggingface_hub import get_token

    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}:
            raise SourceOffline(f"{_title()} is not asked because {name} is set: unset it")
    headers = {"Accept-Encoding": "identity", "User-Agent": "micro-kiki"}
    if token := get_token():
        headers["Authorization"] = f"Bearer {token}"
    try:
        timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
        return httpx.Client(headers=headers, timeout=timeout, follow_redirects=True)
    except (ValueError, ImportError, httpx.InvalidURL) as error:
        raise Intercepted(f"the proxy's address is wrong ({first_line(error)}): mend HTTPS_PROXY") from error


def _download(client: "httpx.Client", url: str, target: Path, *, size: int | None, report: ByteReport) -> bool:
    """Download to ``target``, from where ``target.incomplete`` ends; returns whether that held anything.

    A connection that breaks in the middle is taken up again.
    """
    import httpx

    part = target.with_name(f"{target.name}.incomplete")
    begin = latest = _size_of(part)
    fruitless = 0
    while True:
        try:
            _append(client, url, part, size=size, report=report)
            break
        except httpx.RequestError as error:
            fruitless = 0 if _size_of(part) > latest else fruitless + 1
            latest = _size_of(part)
            if latest == begin or fruitless == FRUITLESS_TRIES:
                raise explain_request(error, _title()) from error
    part.replace(target)
    return begin > 0


def _append(client: "httpx.Client", url: str, part: Path, *, size: int | None, report: ByteReport) -> None:
    begin = _size_of(part)
    if size is not None and begin > size:
        part.unlink()
        begin = 0
    if size is not None and begin == size:
        return
    headers = {"Range": f"bytes={begin}-"} if begin else {}
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416:  # it has become shorter
            part.unlink()
            raise SourceRefused(f"{_title()} has another file than before: try again")
        _check_status(response, urlsplit(url).path)
        done = begin if response.status_code == 206 else 0
        _check_length(response, done, size)
        with part.open("ab" if done else "wb") as sink:
            for chunk in response.iter_bytes():
                sink.write(chunk)
                done += len(chunk)
                report(done)


def _check_status(response: "httpx.Response", name: str) -> None:
    """Raise what an answer without the file means."""
    status = f"HTTP {response.status_code}"
    if response.status_code == 407 or (response.status_code == 403 and "x-error-code" not in response.headers):
        raise Intercepted(f"a proxy stands before {_title()} and refuses ({status}): {PROXY_MEND}")
    if response.status_code in {401, 403}:
        raise SourceRefused(f"{_title()} refuses {name} ({status}): set HF_TOKEN, and accept the model's terms there")
    if response.status_code == 404:
        raise SourceRefused(f"{_title()} does not have {name} ({status}): check the id, the revision and HF_TOKEN")
    if not response.is_success:
        raise SourceRefused(f"{_title()} does not give {name} ({status}): try again later, or {HUB_MEND}")


def _check_length(response: "httpx.Response", done: int, size: int | None) -> None:
    """Refuse another content than the file before it is read: a page of a proxy, or a file of another size."""
    length = response.headers.get("content-length")
    kind = response.headers.get("content-type", "")
    if "text/html" in kind or (size is not None and length is not None and done + int(length) != size):
        raise _not_the_hub(response, size=size, done=done)


def _not_the_hub(response: "httpx.Response", *, size: int | None = None, done: int = 0) -> SourceError:
    kind = response.headers.get("content-type", "unknown content").split(";")[0]
    length = int(response.headers.get("content-length", 0)) + done
    expected = "" if size is None else f", expected a file of {size}"
    return Intercepted(
        f"something else answers in place of {_title()} ({kind} of {length} bytes{expected}): "
        f"a proxy or a login page; {PROXY_MEND}, or set HF_ENDPOINT to a mirror"
    )


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
