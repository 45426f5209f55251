"""Every refusal in the shape and words of the API that it answers: OpenAI's error object, under ``/v1/messages``
Anthropic's; under ``/v1/responses`` its fields have the names that they have there."""

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse
from starlette.types import Scope

from runtime.facade.words import translate
from schemas.errors import InvalidInput, KikiError

RETRYABLE = (429, 503, 504)
"""Statuses after which a client may try again: the reply says when."""

_UNREAD = (408, 413)
"""Statuses after which a client may still be sending its body: the connection cannot be used again."""

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""The ``type`` that Anthropic's clients expect beside an HTTP status, where it is not that of all 4xx or all 5xx."""


class ClientGone(KikiError):
    """The client closed its connection; nobody reads a reply."""

    code = "cancelled"


class InternalError(KikiError):
    """A fault of the facade itself; the log has the traceback, the client does not."""

    def __init__(self, message: str = "the facade failed; its log says why.") -> None:
        super().__init__(message)


class HttpRefusal(InvalidInput):
    """What HTTP itself refuses: a status that no code of the contract has, and the headers that belong to it."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str = InvalidInput.code,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, code=code, param=param)
        self._status = status
        self.headers = dict(headers or {})

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._status


def speaks_anthropic(path: str) -> bool:
    """Whether the clients of a path are Anthropic's, which expect its shapes."""
    return _interface_of(path) == "messages"


def describe_error_for(path: str, error: KikiError, *, request_id: str = "") -> dict[str, Any]:
    """The body of a refusal in the shape that the clients of ``path`` expect."""
    if speaks_anthropic(path):
        return describe_anthropic_error(error, request_id=request_id)
    return describe_error(translate(error) if _interface_of(path) == "responses" else error)


def _interface_of(path: str) -> str:
    return path.strip("/").removeprefix("v1/").split("/")[0]


def describe_error(error: KikiError) -> dict[str, Any]:
    """OpenAI's error object of an error."""
    kind = kind_of(error.status)
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def describe_anthropic_error(error: KikiError, *, request_id: str) -> dict[str, Any]:
    """Anthropic's error object of an error, which has no place for the field at fault: the message names it."""
    kind = _ANTHROPIC_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    message = error.message
    if error.param and error.param not in message:
        message = f"{error.param}: {message}"
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}


def kind_of(status: int) -> str:
    """The ``type`` that OpenAI's clients expect beside an HTTP status."""
    if status == 401:
        return "authentication_error"
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def refuse(scope: Scope, error: KikiError, *, retry_after: int) -> JSONResponse:
    """The reply to the request of ``scope``, which ends in ``error``."""
    headers = dict(error.headers) if isinstance(error, HttpRefusal) else {}
    if error.status in RETRYABLE:
        headers["retry-after"] = str(retry_after)
    if error.status in _UNREAD:
        headers["connection"] = "close"
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    request_id = scope.get("state", {}).get("request_id", "")
    body = describe_error_for(scope["path"], error, request_id=request_id)
    return JSONResponse(body, status_code=error.status, headers=headers)
