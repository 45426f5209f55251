"""Translates the upstream's errors: it is away and a retry may help, or it refused and no retry helps."""

import openai

from schemas.errors import InvalidInput, KikiError, Refused, StageFailed, Unavailable

BUSY = frozenset({408, 409, 425, 429})
"""Status codes of refusals that pass: the same request may succeed later."""
_TOO_LONG = (
    "context_length_exceeded", "maximum context length", "longer than the maximum", "context window", "context size"
)  # fmt: skip


def translate_error(error: openai.OpenAIError) -> KikiError:
    """This program's error for one of the client's.

    A lost connection, a time-out and a 5xx are :class:`Unavailable`, a full queue is :class:`Refused`; a prompt that is
    too long is the client's mistake; any other 4xx is ``upstream_refused``, which a retry would not help.
    """
    if not isinstance(error, openai.APIStatusError):
        return Unavailable(f"the upstream does not answer: {type(error).__name__}.")
    text = _error_text(error)
    if error.status_code in BUSY:
        return Refused(f"the upstream is busy ({error.status_code}): {text}")
    if error.status_code >= 500:
        return Unavailable(f"the upstream answered {error.status_code}: {text}")
    if error.status_code in (400, 413, 422) and any(mark in text for mark in _TOO_LONG):
        return InvalidInput(
            "This model's maximum context length is less than your messages resulted in: the prompt is too long. "
            f"The upstream says: {text}",
            code="context_length_exceeded",
            param="messages",
        )
    return StageFailed(f"the upstream refused with {error.status_code}: {text}", code="upstream_refused")


def is_outage(error: KikiError) -> bool:
    """Whether the upstream may be gone, and readiness with it."""
    return isinstance(error, Unavailable)


def _error_text(error: openai.APIStatusError) -> str:
    """The error's message on one line; bodies differ from server to server."""
    body = error.body
    while isinstance(body, dict) and ("message" in body or "error" in body or "detail" in body):
        body = body.get("message") or body.get("error") or body.get("detail")
    text = body if isinstance(body, str) and body else error.response.text
    return " ".join(text.split())[:300] or error.response.reason_phrase
