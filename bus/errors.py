"""What nats-py raises, in our terms; no other module knows its exceptions. Needs nats-py and :mod:`schemas` only.

    Unavailable
    +-- BrokerUnavailable   the broker is away, slow, or does not do it
    Refused
    +-- SequenceConflict    somebody wrote to the subject first

What has a name of its own in nats-py needs no more here: a timeout is a :class:`TimeoutError`, and what JetStream
refuses is a ``nats.errors.Error`` like the rest.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import nats.errors
from nats.js.errors import APIError, NotFoundError

from schemas.errors import Refused, Unavailable

BROKER_ERRORS: tuple[type[Exception], ...] = (nats.errors.Error, OSError)
"""All that a call to the broker may raise: nats-py's errors, and timeouts and failed sockets, which are OSErrors."""

REJECTED: type[Exception] = APIError
"""JetStream does not do it: a wrong setting, a limit, a name that is taken."""

NOT_FOUND: type[Exception] = NotFoundError
"""The broker has no stream, consumer, message or object of that name."""

STREAM_FULL = 10077
"""The broker's code for a stream that takes no more messages."""

WRONG_LAST_SEQUENCE = 10071
"""The broker's code for a message that should have followed another one than the last."""

CONSUMER_EXISTS = (10013, 10148)
"""The broker's codes for a consumer whose name is taken."""


class BrokerUnavailable(Unavailable):
    """The broker is away, slow, or does not do it; ``reason`` is nats-py's word for it."""

    def __init__(self, problem: str, reason: str, advice: str = "") -> None:
        super().__init__(f"{problem}: {reason}{f'; {advice}' if advice else ''}.")
        self.reason = reason


class SequenceConflict(Refused):
    """Another message came to the subject since its last one was read."""

    code = "in_hand"


@contextmanager
def translate_errors(problem: str, *, advice: str = "") -> Iterator[None]:
    """Whatever the broker fails at in the context becomes ``{problem}: {reason}; {advice}.``

    A caller names the problem in its own terms: what a verb of the bus has translated is translated again.

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
    """What the error says, or its kind when it says nothing."""
    return str(error).rstrip(".") or type(error).__name__


def code_of(error: BaseException) -> int | None:
    """The number that JetStream gives an error; None for all others."""
    code: int | None = getattr(error, "err_code", None)
    return code
