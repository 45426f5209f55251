"""The gates' verdicts on the adapters of one folder, kept by digest in files beside them, for later starts, too.

    <folder>/.verdicts/<sha256>.json       the verdict on weights of that digest
    <folder>/.verdicts/first-start.json    what lay in the folder when a runtime first started with it

What lay there first is the operator's: it is served, and called ungated. What comes later waits until it is judged. A
verdict belongs to the weights and not to their name: weights that are copied elsewhere under another name keep it, and
new weights under an old name have none.
"""

import contextlib
import hashlib
import threading
import time
from pathlib import Path

import msgspec
from msgspec import structs

from agents.shared.adapters.folders import find_weights
from agents.shared.disk import replace_file
from bus.metrics import count_degraded
from schemas.adapters import Gate, VerdictState

FOLDER = ".verdicts"
FIRST_START = "first-start.json"
SERVED: tuple[VerdictState, ...] = ("ungated", "passed")


class KeptVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the gates say of weights; ``judged_at`` is a Unix time, and ``message`` the reason of a refusal.

    ``bytes`` and ``mtime_ns`` are those of the file when it was read last: by them the next start knows the weights
    before it reads them. Loading compares the digest.
    """

    sha256: str
    state: VerdictState
    name: str = ""
    message: str = ""
    gates: tuple[Gate, ...] = ()
    judged_at: float = 0.0
    bytes: int = 0
    mtime_ns: int = 0

    @property
    def is_served(self) -> bool:
        """Whether requests may use the weights."""
        return self.state in SERVED


class _Stamp(msgspec.Struct, frozen=True, array_like=True):
    """Size and modification time of a weights file: enough to tell it from a later one without reading it."""

    bytes: int
    mtime_ns: int


class VerdictFolder:
    """The verdicts of one adapters folder. Safe on any thread.

    Files that cannot be written (a read-only folder) are counted; their verdicts hold until the process ends.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._lock = threading.Lock()
        self._verdicts: dict[str, KeptVerdict] = {}
        self._by_stamp: dict[_Stamp, str] = {}
        self._first: dict[str, _Stamp] = {}

    def begin(self, adapters: dict[str, Path]) -> None:
        """Read the verdicts. At the very first start ``adapters`` (folders by name) become the operator's own."""
        with self._lock:
            try:
                self._first = msgspec.json.decode((self._folder / FIRST_START).read_bytes(), type=dict[str, _Stamp])
            except FileNotFoundError:
                self._first = {name: stamp for name, path in adapters.items() if (stamp := _stamp(path)) is not None}
                self._write(FIRST_START, self._first)
            except (OSError, msgspec.DecodeError) as error:
                count_degraded("adapter.verdicts", f"{self._folder / FIRST_START} cannot be read: {error}")
            self._read_verdicts()

    @property
    def has_begun(self) -> bool:
        """Whether a runtime, a training or a pull has ever begun with this folder."""
        return (self._folder / FIRST_START).is_file()

    def find(self, sha256: str) -> KeptVerdict | None:
        """The verdict on weights of that digest; None when there is none yet.

        One that waits may have been judged by another process since: a training, a pull, or another worker.
        """
        with self._lock:
            known = self._verdicts.get(sha256)
            file = self._folder / f"{sha256}.json"
            if (known is None or known.state == "waiting") and file.is_file():
                self._read_verdict(file)
            return self._verdicts.get(sha256)

    @property
    def waiting(self) -> tuple[KeptVerdict, ...]:
        """Those that the gates have not judged."""
        with self._lock:
            return tuple(verdict for verdict in self._verdicts.values() if verdict.state == "waiting")

    def record(self, verdict: KeptVerdict, *, path: Path | None = None) -> None:
        """Keep a verdict in place of an earlier one. ``path`` is the folder of the weights, where they are at hand."""
        with self._lock:
            known = self._verdicts.get(verdict.sha256)
            stamp = _stamp(path) if path is not None else None
            if stamp is None and known is not None:
                stamp = _Stamp(known.bytes, known.mtime_ns)
            if stamp is not None:
                verdict = structs.replace(verdict, bytes=stamp.bytes, mtime_ns=stamp.mtime_ns)
            self._keep(verdict)
            self._write(f"{verdict.sha256}.json", verdict)

    def judge_known(self, name: str, path: Path, sha256: str) -> KeptVerdict:
        """The verdict on the weights in the folder ``path``, whose digest is ``sha256``.

        Weights that are seen for the first time are "ungated" if they lay there at the first start, else "waiting".
        """
        verdict = self.find(sha256)
        if verdict is None:
            state: VerdictState = "ungated" if self._lay_there_first(name, path) else "waiting"
            verdict = KeptVerdict(sha256=sha256, state=state, name=name, judged_at=time.time())
        if _stamp(path) not in (None, _Stamp(verdict.bytes, verdict.mtime_ns)):
            self.record(verdict, path=path)
        return verdict

    def judge_unread(self, name: str, path: Path) -> KeptVerdict | None:
        """The verdict on weights that need not be read for it: their digest is known, or they lay there first.

        None: :meth:`judge_known` must be called with their digest.
        """
        if (sha256 := find_digest(path)) is not None:
            return self.judge_known(name, path, sha256)
        stamp = _stamp(path)
        with self._lock:
            known = self._verdicts.get(self._by_stamp.get(stamp, "")) if stamp is not None else None
        if known is not None:
            return known
        return KeptVerdict(sha256="", state="ungated", name=name) if self._lay_there_first(name, path) else None

    def _lay_there_first(self, name: str, path: Path) -> bool:
        stamp = _stamp(path)
        return stamp is not None and self._first.get(name) == stamp

    def _read_verdicts(self) -> None:
        for file in sorted(self._folder.glob("*.json")):
            if file.name != FIRST_START:
                self._read_verdict(file)

    def _read_verdict(self, file: Path) -> None:
        try:
            verdict = msgspec.json.decode(file.read_bytes(), type=KeptVerdict)
        except (OSError, msgspec.DecodeError) as error:
            count_degraded("adapter.verdicts", f"{file} cannot be read, so its weights are judged again: {error}")
        else:
            self._keep(verdict)

    def _keep(self, verdict: KeptVerdict) -> None:
        self._verdicts[verdict.sha256] = verdict
        if verdict.bytes:
            self._by_stamp[_Stamp(verdict.bytes, verdict.mtime_ns)] = verdict.sha256

    def _write(self, name: str, value: object) -> None:
        try:
            with replace_file(self._folder / name) as temporary:
                temporary.write_bytes(msgspec.json.format(msgspec.json.encode(value)) + b"\n")
        except OSError as error:
            count_degraded("adapter.verdicts", f"{self._folder / name} cannot be written: {error}")


def read_digest(weights: Path) -> str:
    """sha256 of a weights file, computed once for each modification time and size.

    Reading the file is most of the cost of loading an adapter; afterwards it is in the system's page cache.

    Raises:
        OSError: the file cannot be read.
    """
    key = _key(weights)
    if key not in _DIGESTS:
        with weights.open("rb") as file:
            _DIGESTS[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _DIGESTS[key]


def find_digest(folder: Path) -> str | None:
    """The digest of an adapter's weights if this process has read it; None when it has not, or they changed since."""
    weights = find_weights(folder)
    with contextlib.suppress(OSError):
        return None if weights is None else _DIGESTS.get(_key(weights))
    return None


_DIGESTS: dict[tuple[Path, int, int], str] = {}
"""Digests of the weights that this process has read, by path, size and modification time."""


def _key(weights: Path) -> tuple[Path, int, int]:
    status = weights.stat()
    return weights, status.st_size, status.st_mtime_ns


def _stamp(folder: Path) -> _Stamp | None:
    """The stamp of an adapter's weights; None when they are gone."""
    weights = find_weights(folder)
    with contextlib.suppress(OSError):
        return None if weights is None else _Stamp(*_key(weights)[1:])
    return None
