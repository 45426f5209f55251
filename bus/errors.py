"""Translates nats-py's exceptions to the runtime's errors; no other module knows them. Needs nats-py and schemas only.

    Unavailable
    +-- BrokerUnavailable   the broker is away, slow, or refuses the operation
    Refused
    +-- SequenceConflict    another message was stored on the subject first

:data:`BROKER_ERRORS` is enough to catch everything: a timeout of nats-py is a :class:`TimeoutError` and thereby an
:class:`OSError`, and what JetStream refuses is a ``nats.errors.Error`` like the rest.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import nats.errors
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from bus.access.address import without_login
from schemas.errors import Refused, SetupError, Unavailable

BROKER_ERRORS: tuple[type[Exception], ...] = (nats.errors.Error, OSError)
"""Everything that a call to the broker may raise: nats-py's errors, timeouts, and socket errors."""

REJECTED: type[Exception] = APIError
"""JetStream refused the operation: a wrong setting, a limit, a name that is taken."""

NOT_FOUND: type[Exception] = NotFoundError
"""The broker has no stream, consumer, message or object of that name."""

NOBODY_LISTENS: type[Exception] = nats.errors.NoRespondersError
"""Nobody listens to the subject of a request."""
NO_STREAM: type[Exception] = NoStreamResponseError
"""No stream takes the subject."""

STREAM_FULL = 10077
"""The broker's code for a stream that takes no more messages."""

WRONG_LAST_SEQUENCE = 10071
"""The broker's code for a message that was expected to follow one that is not the last any more."""

_UNAVAILABLE = 503
"""The status of what a broker cannot do now: its cluster has no leader, or too few servers."""

_AWAY_CODES = frozenset({10005, 10009, 10041})
"""JetStream's codes for the same under another status: no peers to place a copy on, not the leader, a fault of Raft."""


class BrokerUnavailable(Unavailable):
    """The broker is away, slow, or refuses the operation; ``reason`` is nats-py's description."""

    def __init__(self, problem: str, reason: str = "no answer", advice: str = "") -> None:
        super().__init__(f"{problem}: {reason}{f'; {advice}' if advice else ''}.")
        self.reason = reason


class SequenceConflict(Refused):
    """Another message was stored on the subject since its last one was read."""

    code = "in_hand"


@contextmanager
def translate_errors(problem: str, *, advice: str = "") -> Iterator[None]:
    """Raise an error of the broker in this context as ``{problem}: {reason}; {advice}.``

    Contexts may be nested: the outermost one's ``problem`` is what the error says, in the terms of its caller.

    Raises:
        BrokerUnavailable: with the reason.
    """
    try:
        yield
    except BrokerUnavailable as error:
        raise BrokerUnavailable(problem, error.reason, advice) from error
    except BROKER_ERRORS as error:
        raise BrokerUnavailable(problem, describe(error), advice) from error


def describe(error: BaseException) -> str:
    """The error's message, or the name of its class when it has none."""
    return str(error).rstrip(".") or type(error).__name__


def is_refusal(error: BaseException) -> bool:
    """Whether a server answered and refused the login, or its certificate was refused here."""
    is_of_login = isinstance(error, nats.errors.Error) and "authorization" in str(error).lower()
    return is_of_login or isinstance(error, ssl.SSLError)


def explain_refusal(error: BaseException, url: str) -> SetupError:
    """The error of a connection to ``url`` that was refused (:func:`is_refusal`); the URL's login is left out."""
    server = f"the NATS server at {without_login(url)}"
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "verify_message", "") or error.reason or str(error)
        return SetupError(
            f"TLS with {server} failed ({reason}): mend nats_ca, nats_cert and nats_key.", param="nats_ca"
        )
    return SetupError(
        f"{server} refused the login: mend user and password (percent-encoded) or token in its URL, or nats_nkey or "
        "nats_creds; KIKI_DATA_DIR names the folder of a 'kiki up' on this machine, whose key is in it.",
        param="nats",
    )


def code_of(error: BaseException) -> int | None:
    """JetStream's number for an error; None for an error that did not come from JetStream."""
    code: int | None = getattr(error, "err_code", None)
    return code


def is_away(error: BaseException) -> bool:
    """Whether JetStream says that it cannot do the operation now: the same is not refused once the cluster is whole."""
    return getattr(error, "code", None) == _UNAVAILABLE or code_of(error) in _AWAY_CODES
