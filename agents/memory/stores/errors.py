"""Translates the stores' errors into this program's own. Their libraries raise bare ``Exception``."""

from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import KikiError, SetupError, Unavailable


class BrokenStore(SetupError):
    """A store's files cannot be read. Its content can be made again from the record."""


class StoreAway(Unavailable):
    """A store takes nothing now. No episode is at fault, so the projection waits and gives none up."""


class StoreFull(StoreAway):
    """The disk of an embedded store has no room."""


@contextmanager
def translate_opening_errors(store: str) -> Iterator[None]:
    """Translate whatever fails while a store is opened: its files are broken.

    Raises:
        BrokenStore: with the library's reason.
    """
    with _translate_errors(BrokenStore, f"the {store} cannot be opened"):
        yield


@contextmanager
def translate_store_errors(store: str) -> Iterator[None]:
    """Translate whatever fails in an open store: it may succeed on a later try.

    Raises:
        Unavailable: with the library's reason.
    """
    with _translate_errors(Unavailable, f"the {store} failed"):
        yield


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


def setting_error(field: str, reason: str, *, mend: str) -> SetupError:
    """The error of a setting with which a store's server cannot be used; ``mend`` says how to do without the server."""
    name = f"agents.memory.{field}"
    return SetupError(f"setting '{name}': {reason}: mend it, start the server, or {mend}.", param=name)


def one_line(error: BaseException) -> str:
    """The error's text on one line, or its class name when it has no text."""
    return " ".join(str(error).split()) or type(error).__name__
