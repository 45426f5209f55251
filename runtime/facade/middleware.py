"""One log line and one request id for each request; what escapes an endpoint becomes an error reply here."""

import re
import time
import uuid

import anyio
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.facade import metrics
from runtime.facade.errors import InternalError, refuse, speaks_anthropic
from schemas.errors import KikiError, Unavailable

_log = structlog.get_logger("facade")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
GONE = 499
"""The status that is logged when the client left before it had its reply."""


class AccessLog:
    """ASGI middleware around the application; ``retry_after`` is what a refusal says that may be tried again."""

    def __init__(self, app: ASGIApp, *, retry_after: int) -> None:
        self.app = app
        self._retry_after = retry_after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; other scopes pass through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        with structlog.contextvars.bound_contextvars(request_id=exchange.request_id):
            try:
                await self.app(scope, receive, exchange.send)
            except Exception:  # noqa: BLE001 - the last resort; logged with its traceback
                _log.exception("endpoint failed", path=scope["path"])
                await self._end(exchange, receive, InternalError())
            except anyio.get_cancelled_exc_class():  # the server stops, and this request did not end in time
                with anyio.CancelScope(shield=True):
                    await self._end(exchange, receive, Unavailable("the facade is stopping: ask again."))
                raise
            finally:
                exchange.log()

    async def _end(self, exchange: "_Exchange", receive: Receive, error: KikiError) -> None:
        """Reply with ``error``, unless a reply has begun."""
        if exchange.status is None:
            reply = refuse(exchange.scope, error, retry_after=self._retry_after)
            await reply(exchange.scope, receive, exchange.send)


class _Exchange:
    """One request, the status of its reply, and what is logged of both."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self.started = time.perf_counter()
        self.status: int | None = None
        self._send = send
        self._state = scope.setdefault("state", {})
        header = Headers(scope=scope).get("x-request-id", "")
        self.request_id = header if _REQUEST_ID.fullmatch(header) else uuid.uuid4().hex
        self._state["request_id"] = self.request_id

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            if speaks_anthropic(self.scope["path"]):
                headers["request-id"] = self.request_id
            if turn_id := self._state.get("turn_id"):
                headers["x-turn-id"] = turn_id
        await self._send(message)

    def log(self) -> None:
        status = GONE if self.status is None or self._state.get("client_gone") else self.status
        route = getattr(self.scope.get("route"), "path", "none")
        metrics.REQUESTS.labels(route, str(status)).inc()
        _log.info(
            "request served",
            method=self.scope["method"],
            path=self.scope["path"],
            status=status,
            seconds=round(time.perf_counter() - self.started, 4),
            turn_id=self._state.get("turn_id"),
        )
