"""Translates the stores' errors into this program's own. Their libraries raise bare ``Exception``."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import structlog

from schemas.errors import KikiError, SetupError, Unavailable

_log = structlog.get_logger("memory")


class BrokenStore(SetupError):
    """A store's files cannot be read. Its content can be made again from the record."""


class StoreAway(Unavailable):
    """A store takes nothing now: its server does not answer or refuses whoever asks, its disk has no room.

    No episode is at fault, so the projection waits and gives none up.
    """


class StoreFull(StoreAway):
    """The disk of an embedded store has no room."""


class StoreStuck(StoreAway):
    """An embedded store takes nothing more until it is opened anew. What it took is on disk."""


_NOT_THE_FILES = (
    "permission denied",
    "operation not permitted",
    "read-only file system",
    "no space left",
    "disk quota exceeded",
    "too many open files",
    "cannot allocate memory",
)
"""What an error says when nothing is wrong with the files themselves."""


_STUCK = ("post-commit checkpoint failed", "The buffer pool is full")
"""What the embedded graph says when it could not move its log into its file: it never tries again, keeps whatever is
written from then on in memory, and has none left in the end. Opening it anew does the move again."""


@contextmanager
def translate_opening_errors(store: str) -> Iterator[None]:
    """Translate whatever fails while a store is opened: its files are broken, unless the machine refuses them.

    Raises:
        BrokenStore: with the library's reason.
        SetupError: the machine refuses to read or write the files; there may be nothing wrong with them.
    """
    prefix = f"the {store} cannot be opened"
    try:
        with _translate_errors(BrokenStore, prefix):
            yield
    except BrokenStore as error:
        if any(reason in error.message.lower() for reason in _NOT_THE_FILES):
            raise SetupError(
                f"{error.message.rstrip('.')}: its files are left as they are; mend the disk or its permissions.",
                param="data_dir",
            ) from error
        raise
    except Unavailable as error:  # a statement of the open store failed
        raise BrokenStore(f"{prefix}: {error.message}") from error


def refuse_forbidden_files(directory: Path) -> None:
    """Refuse a store of which a file or folder may not be read and written: that does not make it a broken one.

    Raises:
        SetupError: with the first such path.
    """
    effective = os.access in os.supports_effective_ids
    for path in chain([directory], directory.rglob("*")):
        wanted = os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)
        if not os.access(path, wanted, effective_ids=effective):
            raise SetupError(
                f"this user may not read and write {path}: mend its permissions or set another data directory.",
                param="data_dir",
            )


@contextmanager
def translate_store_errors(store: str) -> Iterator[None]:
    """Translate whatever fails in an open store: it may succeed on a later try.

    Raises:
        Unavailable: with the library's reason.
        StoreStuck: the store must be opened anew, which is no episode's fault.
    """
    try:
        with _translate_errors(Unavailable, f"the {store} failed"):
            yield
    except Unavailable as error:
        if any(reason in error.message for reason in _STUCK):
            raise StoreStuck(f"{error.message} The {store} is opened anew.") from error
        raise


@contextmanager
def _translate_errors(kind: type[KikiError], prefix: str) -> Iterator[None]:
    try:
        yield
    except KikiError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":  # a Rust panic is no Exception
            raise kind(f"{prefix}: {str(error) or type(error).__name__}") from error
        raise


class Reach:
    """Whether a store's server can be used: waits are told once, with the setting to look at, and so is their end."""

    def __init__(self, store: str) -> None:
        self.store = store
        self.away = ""

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Note from what a call in this context raises whether the server can be used."""
        try:
            yield
        except StoreAway as error:
            if error.message != self.away:
                _log.warning("store's server refused", store=self.store, setting=error.param, error=error.message)
            self.away = error.message
            raise
        except KikiError:  # it answers, if only with an error
            self._clear()
            raise
        self._clear()

    def _clear(self) -> None:
        if self.away:
            self.away = ""
            _log.info("store's server came back", store=self.store)


def away_error(field: str, reason: str) -> StoreAway:
    """The error of a server that cannot be used at the moment; ``field`` is the setting to look at."""
    name = f"agents.memory.{field}"
    return StoreAway(f"{reason}: the projection waits; look at the server and at setting '{name}'.", param=name)


def setting_error(field: str, reason: str, *, mend: str) -> SetupError:
    """The error of a setting with which a store's server cannot be used; ``mend`` says how to do without the server."""
    name = f"agents.memory.{field}"
    return SetupError(f"setting '{name}': {reason}: mend it, start the server, or {mend}.", param=name)


def one_line(error: BaseException) -> str:
    """The error's text on one line, or its class name when it has no text."""
    return " ".join(str(error).split()) or type(error).__name__
