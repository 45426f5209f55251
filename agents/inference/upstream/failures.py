"""What the upstream's errors mean here: away and worth another try, or refused and poison."""

import openai

from schemas.errors import InvalidInput, KikiError, Refused, StageFailed, Unavailable

BUSY = frozenset({408, 409, 425, 429})
"""Refusals that pass: the same request may do later."""
_TOO_LONG = ("context_length_exceeded", "maximum context length", "longer than the maximum", "context window")


def translated(error: openai.OpenAIError) -> KikiError:
    """Our error for one of the client's.

    A lost connection, a time-out and a 5xx are :class:`Unavailable`, a full queue is :class:`Refused`; a prompt that is
    too long is the client's mistake; any other 4xx is ``upstream_refused``, which no retry mends.
    """
    if not isinstance(error, openai.APIStatusError):
        return Unavailable(f"the upstream does not answer: {type(error).__name__}.")
    told = _told(error)
    if error.status_code in BUSY:
        return Refused(f"the upstream is busy ({error.status_code}): {told}")
    if error.status_code >= 500:
        return Unavailable(f"the upstream answered {error.status_code}: {told}")
    if error.status_code in (400, 413, 422) and any(mark in told for mark in _TOO_LONG):
        return InvalidInput(f"the upstream says: {told}", code="context_length_exceeded", param="messages")
    return StageFailed(f"the upstream refused with {error.status_code}: {told}", code="upstream_refused")


def lost(error: KikiError) -> bool:
    """Whether the upstream may be gone, and readiness with it."""
    return isinstance(error, Unavailable)


def _told(error: openai.APIStatusError) -> str:
    """One line of what it said; bodies differ from server to server."""
    body = error.body
    while isinstance(body, dict) and ("message" in body or "error" in body or "detail" in body):
        body = body.get("message") or body.get("error") or body.get("detail")
    text = body if isinstance(body, str) and body else error.response.text
    return " ".join(text.split())[:300] or error.response.reason_phrase
