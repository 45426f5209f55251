"""What many routes share: the parameters that they read by themselves, the headers that they send, the keys."""

from typing import Any

from runtime.facade.owner import USER_HEADERS
from schemas.envelope import MAX_USER, SESSION_PATTERN, USER_PATTERN

Json = dict[str, Any]


def _parameter(name: str, description: str, *, place: str = "header", **schema: Any) -> Json:
    return {"name": name, "in": place, "description": description, "schema": {"type": "string"} | schema}


def _header(description: str) -> Json:
    return {"description": description, "schema": {"type": "string"}}


OF_ALL = ("X-Request-Id",)
OF_USERS = USER_HEADERS
OF_BODILESS_USERS = (*USER_HEADERS, "user")
OF_TURNS = ("Idempotency-Key", "X-Session-Id", "traceparent")

PARAMETERS = {
    "X-Request-Id": _parameter(
        "X-Request-Id", "An id for the log, which the reply repeats.", pattern="^[A-Za-z0-9_.:-]{1,128}$"
    ),
    **{
        name: _parameter(name, "Whose memory it is.", pattern=USER_PATTERN, maxLength=MAX_USER) for name in USER_HEADERS
    },
    "user": _parameter("user", "Whose memory it is.", place="query", pattern=USER_PATTERN, maxLength=MAX_USER),
    "Idempotency-Key": _parameter(
        "Idempotency-Key", "A retry with the same key gets the same turn.", pattern="^[!-~]{1,255}$"
    ),
    "X-Session-Id": _parameter("X-Session-Id", "The session that the turn belongs to.", pattern=SESSION_PATTERN),
    "traceparent": _parameter("traceparent", "The W3C trace that the turn's spans join."),
}
"""By their names in the document."""

OF_REPLIES = ("x-request-id",)
OF_ANSWERS = ("x-turn-id", "x-kiki-level", "x-kiki-degraded")

HEADERS = {
    "x-request-id": _header("The request's id in the log."),
    "x-turn-id": _header("The turn, for `GET /v1/turns/{turn_id}`."),
    "x-kiki-level": _header("The turn's level, where the request decides it."),
    "x-kiki-degraded": _header("What the client gets less than it asked for, such as `level=fast; field=n`."),
    "retry-after": _header("Seconds after which to send the request again."),
}
"""Headers of replies."""

_WHOSE = "A tenant's key, or the administrator's where the route says so. A server may have been set up without keys."

KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": _WHOSE},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "X-Api-Key", "description": _WHOSE},
    "api-key": {"type": "apiKey", "in": "header", "name": "api-key", "description": _WHOSE},
}
"""The headers in which a key may stand."""

DESCRIPTIONS = {
    "after": "The id of the item behind which to begin.",
    "as_of": "What was known at this time: a date, which means the end of that day, or a time.",
    "limit": "How many at most.",
    "name": "The name of the model or of the adapter.",
    "order": "Newest first, or oldest first.",
    "query": "What to look for.",
    "response_id": "The response's id.",
    "session_id": "The session's id.",
    "stream": "Not served: a response is not streamed again.",
    "turn_id": "The turn's id.",
    "verb": "What to do with it.",
}
"""Of the parameters that FastAPI knows."""


def refer(kind: str, *names: str) -> list[Json]:
    """References to parts of this kind."""
    return [{"$ref": f"#/components/{kind}/{name}"} for name in names]
