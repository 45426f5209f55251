"""Every refusal as an OpenAI error object: message, type, param and code."""

from typing import Any

from fastapi.responses import JSONResponse

from schemas.errors import KikiError

_BUSY = (429, 503)
"""Statuses after which a client may try again: the reply says when."""

_UNREAD = (408, 413)
"""Statuses after which a client may still be sending its body: the connection cannot be used again."""


class ClientGone(KikiError):
    """The client closed its connection; nobody reads a reply."""

    code = "cancelled"


class InternalError(KikiError):
    """A fault of the facade itself; the log has the traceback, the client does not."""

    def __init__(self) -> None:
        super().__init__("the facade failed; its log says why.", code="internal_error")


def error_object(*, message: str, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """The body of a refusal."""
    return {"error": {"message": message, "type": kind_of(status), "param": param, "code": code}}


def kind_of(status: int) -> str:
    """The ``type`` that OpenAI's clients expect beside an HTTP status."""
    if status == 401:
        return "authentication_error"
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def describe_error(error: KikiError) -> dict[str, Any]:
    """The error object of a :class:`KikiError`."""
    return error_object(message=error.message, status=error.status, code=error.code, param=error.param)


def refuse(error: KikiError, *, retry_after: int) -> JSONResponse:
    """The reply to a request that ends in ``error``."""
    headers = {"retry-after": str(retry_after)} if error.status in _BUSY else {}
    if error.status in _UNREAD:
        headers["connection"] = "close"
    return JSONResponse(describe_error(error), status_code=error.status, headers=headers)


def internal_error_reply() -> JSONResponse:
    """The reply to a request that the facade itself failed at."""
    return JSONResponse(describe_error(InternalError()), status_code=500)
