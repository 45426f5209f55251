"""What pages in a browser may do: which may read the replies (CORS), and, without API keys, which may ask at all.

A server without keys listens on loopback, where every page that its owner visits can reach it. Such a page names its
own origin with whatever it sends, and one that has bent its name to this address (DNS rebinding) names that as the
host: both are checked. With keys a page without one is refused like anybody else.
"""

import ipaddress
import re
from collections.abc import Collection
from fnmatch import fnmatchcase

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from runtime.facade.chat.headers import DEGRADED, LEVEL
from runtime.facade.errors import HttpRefusal, describe_error, refuse

ANY = "*"
"""In a list of origins or hosts: all of them."""

METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
EXPOSED = (ANY, "x-request-id", "x-turn-id", LEVEL, DEGRADED, "retry-after")
"""Headers of a reply that a page may read: all, and by name for browsers that do not know what all is."""


_HOST = re.compile(r"(?:\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[^\s:/@?#\[\]]+))(?::[0-9]*)?")


class Cors(CORSMiddleware):
    """Starlette's middleware for pages of the origins in a list. Others get no header of it, and refusals like all."""

    def __init__(self, app: ASGIApp, *, origins: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=METHODS,
            allow_headers=[ANY],
            expose_headers=EXPOSED,
            allow_private_network=True,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """The reply to the question whether a page may ask."""
        reply = super().preflight_response(request_headers)
        if reply.status_code < 400:
            return reply
        wrong = bytes(reply.body).decode().removeprefix("Disallowed CORS ")
        refusal = HttpRefusal(
            f"a page may not ask this (not allowed: {wrong}): the facade's setting cors_origins lists those that may.",
            status=reply.status_code,
            code="cors_refused",
            param="Origin",
        )
        return JSONResponse(describe_error(refusal), status_code=refusal.status, headers={"vary": "Origin"})

    async def simple_response(self, scope: Scope, receive: Receive, send: Send, request_headers: Headers) -> None:
        """Serve what is no such question."""
        if self.is_allowed_origin(request_headers.get("origin", "")):
            await super().simple_response(scope, receive, send, request_headers)
        else:
            await self.app(scope, receive, send)


class HostCheck:
    """ASGI middleware of a server without keys: refuses requests that name a strange host, or come from a strange page.

    ``host`` is the address that the server listens on. ``allowed_hosts`` are patterns of host names without a port;
    ``origins`` are those of pages elsewhere. :data:`ANY` in a list allows all.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        allowed_hosts: Collection[str],
        origins: Collection[str],
        retry_after: int,
    ) -> None:
        self.app = app
        self._hosts = (host.lower(), *(pattern.lower() for pattern in allowed_hosts))
        self._origins = origins
        self._retry_after = retry_after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it; other scopes pass through."""
        if scope["type"] == "http" and (refusal := self._find_fault(scope)) is not None:
            await refuse(scope, refusal, retry_after=self._retry_after)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _find_fault(self, scope: Scope) -> HttpRefusal | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host"), headers.get("origin")
        if host is not None and not self._is_own_host(_name_of(host), scope):
            return _refusal("Host", host, mend="add it to the facade's allowed_hosts")
        if origin is not None and not self._is_allowed_origin(origin, host):
            return _refusal("Origin", origin, mend="add it to the facade's cors_origins")
        return None

    def _is_own_host(self, name: str, scope: Scope) -> bool:
        own_address = (scope.get("server") or ("",))[0]
        return (
            is_loopback(name)
            or (bool(own_address) and name == own_address.lower())
            or any(fnmatchcase(name, pattern) for pattern in self._hosts)
        )

    def _is_allowed_origin(self, origin: str, host: str | None) -> bool:
        """Whether a page is one of the list, or this server's own; a proxy may have ended its TLS."""
        if ANY in self._origins or origin in self._origins:
            return True
        scheme, _, own = origin.partition("://")
        return scheme in ("http", "https") and host is not None and own.lower() == host.lower()


def is_loopback(name: str) -> bool:
    """Whether a host's name or address is this machine's own, whoever resolves it."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _name_of(host: str) -> str:
    """The name or address in a header Host; empty when it has none."""
    match = _HOST.fullmatch(host.strip())
    return (match["address"] or match["name"]).lower().removesuffix(".") if match else ""


def _refusal(header: str, value: str, *, mend: str) -> HttpRefusal:
    return HttpRefusal(
        f"{header} '{value[:200]}' is refused, as this server asks for no API key and other people's pages must not "
        f"reach it: {mend}, or set api_keys.",
        status=403,
        code="forbidden",
        param=header,
    )
