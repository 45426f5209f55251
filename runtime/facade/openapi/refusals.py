"""What routes refuse: the codes of the errors, the statuses that belong to them, and the shapes of their bodies."""

from collections.abc import Iterable
from typing import Any, Literal

from msgspec import Struct

from runtime.facade.errors import RETRYABLE
from schemas.errors import CODES

REASONS = {
    400: "A field, a parameter or a header is wrong; the message says which one and how to mend it.",
    401: "No valid key was sent.",
    403: "This server asks for no key, and was asked under a strange name or by a strange page.",
    404: "What the request names is not there.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is not plain JSON.",
    422: "The values cannot be served, or do not go together.",
    429: "Too much is asked at once.",
    499: "The turn was cancelled: who asked for it, or forgot what it had recalled, did that.",
    500: "The runtime failed at this request.",
    502: "Another server, or a stage of the turn, answered what it may not.",
    503: "A part of the runtime is away, or cannot take more.",
    504: "The time was over before there was an answer.",
}
"""What each status means."""

OF_HTTP = {"forbidden": 403, "not_found": 404, "unsupported_media_type": 415}
"""Codes that only HTTP has, with their statuses."""

OF_ROUTES = ("forbidden", "internal_error")
OF_KEYS = ("unauthorized",)
OF_PARAMETERS = ("invalid_request",)
OF_BODIES = ("invalid_request", "request_timeout", "body_too_large", "unsupported_media_type")
OF_AGENTS = ("unavailable",)
OF_RESPONSES = ("response_not_found", *OF_AGENTS)
OF_TURNS = (
    "model_not_found",
    "context_length_exceeded",
    "unprocessable",
    "queue_full",
    "inference_failed",
    "upstream_refused",
    "stage_invalid",
    "unavailable",
    "broker_lost",
    "deadline_exceeded",
    "cancelled",
)


class ErrorDetail(Struct, frozen=True, kw_only=True):
    """What is wrong and how to mend it; `param` names the field, the parameter or the header."""

    message: str
    type: Literal["invalid_request_error", "authentication_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str


class ErrorReply(Struct, frozen=True, kw_only=True):
    """An error in OpenAI's shape."""

    error: ErrorDetail


class AnthropicErrorDetail(Struct, frozen=True, kw_only=True):
    """What is wrong and how to mend it."""

    type: str
    message: str


class AnthropicErrorReply(Struct, frozen=True, kw_only=True):
    """An error in Anthropic's shape."""

    type: Literal["error"]
    error: AnthropicErrorDetail
    request_id: str


SHAPES: dict[str, type[Struct]] = {"openai": ErrorReply, "anthropic": AnthropicErrorReply}


def status_of(code: str) -> int:
    """The HTTP status of an error's code."""
    return OF_HTTP.get(code) or CODES[code]


def name_refusals(codes: Iterable[str], *, shape: str) -> dict[str, Any]:
    """A route's responses for errors of these codes, by their statuses; ``shape`` is one of :data:`SHAPES`."""
    by_status: dict[int, list[str]] = {}
    for code in sorted(set(codes)):
        by_status.setdefault(status_of(code), []).append(code)
    return {
        str(status): {"$ref": f"#/components/responses/{shape}-{status}", "description": ", ".join(names)}
        for status, names in sorted(by_status.items())
    }


def describe_refusals() -> dict[str, Any]:
    """The responses that routes name: each status in each shape."""
    return {
        f"{shape}-{status}": _describe_refusal(status, struct) for shape, struct in SHAPES.items() for status in REASONS
    }


def _describe_refusal(status: int, struct: type[Struct]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{struct.__name__}"}}}
    headers = {"headers": {"retry-after": {"$ref": "#/components/headers/retry-after"}}}
    return {"description": REASONS[status], **(headers if status in RETRYABLE else {}), "content": content}
