"""What a dialect is: how an answer is written for the clients of one interface, whole or while it comes.

A dialect is made for one turn. In a stream its methods are called in this order: ``begin`` once, ``text`` for every
piece, and for each choice ``finish`` with its calls; then ``end``. ``fail`` ends a stream that has begun. Each returns
the bytes to send.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec

from runtime.facade.chat.response import Choice
from schemas.envelope import Envelope
from schemas.errors import KikiError
from schemas.events import AnswerReady
from schemas.findings import TokenLogprob

TextKind = Literal["content", "reasoning"]


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What is known of a turn when its stream begins; ``prompt_tokens`` is 0 and ``model_digest`` is empty when the
    worker has not accepted it yet."""

    envelope: Envelope
    prompt_tokens: int = 0
    model_digest: str = ""


class StreamDialect(Protocol):
    """One interface's shapes of an answer while it comes."""

    def begin(self, beginning: Beginning) -> bytes:
        """The stream's first events."""

    def text(self, kind: TextKind, text: str, tokens: Sequence[TokenLogprob], index: int) -> bytes:
        """A piece of choice ``index``; ``tokens`` are those that were decoded since the piece before."""

    def finish(self, choice: Choice, answer: AnswerReady) -> bytes:
        """The end of a choice, whose text was sent already: its calls, and why it ended."""

    def end(self, answer: AnswerReady) -> bytes:
        """The stream's last events."""

    def fail(self, error: KikiError) -> bytes:
        """The end of a stream whose answer will not come."""


class Dialect(StreamDialect, Protocol):
    """One interface's shapes of an answer."""

    def whole(self, answer: AnswerReady) -> dict[str, Any]:
        """The body of a plain reply."""


def write_data(body: Any) -> bytes:
    """A server-sent event without a name."""
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def write_event(name: str, body: Any) -> bytes:
    """A server-sent event with a name."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(body) + b"\n\n"
