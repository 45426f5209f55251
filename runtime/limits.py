"""The limits that follow the model's context: of a body, an answer, a message on the bus, and a turn's time. Pure.

A worker says in its status how many tokens its context has. What is smaller than this context needs, because somebody
set it or because the broker takes less, is named by :func:`find_short`.
"""

from dataclasses import dataclass

from bus.broker import MAX_PAYLOAD
from schemas.chat import MAX_TOKENS

PLAIN_BODY = 1024**2
"""Bytes of a body that are taken whatever the model's context is."""

PLAIN_ANSWER = 32768
"""Tokens of an answer that a request may ask for while no worker has said how many its context has."""

TOKEN_BYTES = 8
"""Bytes of JSON that a token of a prompt may take: English has 4 to 5, and ``\\uXXXX`` takes 6 for a character."""

PAYLOAD_FACTOR = 2
"""A message carries the prompt once, and what was recalled and answered beside it."""

PAYLOAD_ROOM = 1024**2
MOST_PAYLOAD = 64 * 1024**2
"""The largest message that nats-server can be set to."""

READ_TOKENS = 500.0
"""Tokens of a long prompt that a worker is given a second for, beside the turn's own time; chosen."""

PLAIN_CHARACTERS = 128_000
"""Characters of a prompt that are read within the turn's own time."""

TOKEN_CHARACTERS = 4
MOST_SECONDS = 900.0
"""A turn's time at most: the broker drops repeated messages for not much longer."""


@dataclass(frozen=True, kw_only=True)
class ContextLimits:
    """What a context needs: bytes of a body and of a message (``payload``), tokens of an answer, seconds of a turn."""

    body: int
    payload: int
    answer: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ShortLimit:
    """A limit that is smaller than the model's context needs, and how to mend it."""

    name: str
    value: float
    needed: float
    mend: str


def derive_limits(context_tokens: int | None, *, turn_timeout: float = 120.0) -> ContextLimits:
    """The limits of a model with that context; None is a model whose worker has not said."""
    body = max(PLAIN_BODY, TOKEN_BYTES * (context_tokens or 0))
    return ContextLimits(
        body=body,
        payload=min(MOST_PAYLOAD, max(MAX_PAYLOAD, PAYLOAD_FACTOR * body + PAYLOAD_ROOM)),
        answer=min(MAX_TOKENS, context_tokens or PLAIN_ANSWER),
        seconds=find_seconds(TOKEN_CHARACTERS * (context_tokens or 0), turn_timeout=turn_timeout),
    )


def find_seconds(characters: int, *, turn_timeout: float) -> float:
    """A turn's time: ``turn_timeout``, and more for a prompt of more than :data:`PLAIN_CHARACTERS`."""
    long_tokens = max(0, characters - PLAIN_CHARACTERS) / TOKEN_CHARACTERS
    return max(turn_timeout, min(MOST_SECONDS, turn_timeout + long_tokens / READ_TOKENS))


def limit_body(limits: ContextLimits, *, body_limit: int | None, max_payload: int) -> int:
    """Bytes of a body that are taken: what is set, else what the context needs and the broker can carry."""
    if body_limit is not None:
        return body_limit
    return max(PLAIN_BODY, min(limits.body, (max_payload - PAYLOAD_ROOM) // PAYLOAD_FACTOR))


def find_short(
    context_tokens: int, *, max_payload: int | None, body_limit: int | None, max_tokens_cap: int | None
) -> list[ShortLimit]:
    """The limits that keep a model from being asked, or from answering, with all of its context.

    ``max_payload`` None: no broker was asked.
    """
    limits, short = derive_limits(context_tokens), []
    if max_payload is not None and max_payload < limits.payload:
        mend = f"set max_payload: {limits.payload} in nats-server's configuration; 'kiki up' does so at its next start"
        short.append(ShortLimit(name="max_payload", value=max_payload, needed=limits.payload, mend=mend))
    if body_limit is not None and body_limit < limits.body:
        mend = "leave agents.facade.body_limit out: it follows the context then"
        short.append(ShortLimit(name="body_limit", value=body_limit, needed=limits.body, mend=mend))
    if max_tokens_cap is not None and max_tokens_cap < limits.answer:
        mend = "leave agents.facade.max_tokens_cap out: it follows the context then"
        short.append(ShortLimit(name="max_tokens_cap", value=max_tokens_cap, needed=limits.answer, mend=mend))
    return short
