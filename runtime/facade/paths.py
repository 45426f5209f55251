"""Which path a request means, and what it may do there.

Every route is served without its ``/v1``, too, and with slashes around it; HEAD wherever GET is; OPTIONS everywhere.
A path is taken as it is where a route has it, so an id may end in a slash.
"""

from collections.abc import Iterable, Iterator

from fastapi.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from runtime.facade.errors import HttpRefusal, refuse

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
"""The order in which a refusal lists them."""

PREFIX = "/v1"
MAX_NAMED = 200
"""Characters of a path that a refusal repeats."""


class Paths:
    """ASGI middleware around a router that has these ``routes``."""

    def __init__(self, app: ASGIApp, *, routes: Iterable[BaseRoute], retry_after: int) -> None:
        self.app = app
        self._routes = [route for route in routes if isinstance(route, Route)]
        self._retry_after = retry_after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request at the path that it means; other scopes pass through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method, methods = scope["method"], set[str]()
        for path in _spellings(scope["path"]):
            if methods := self._find_methods(path):
                scope["path"] = path
                break
        if method in methods:
            await self.app(scope, receive, send)
        elif method == "HEAD" and "GET" in methods:
            await self._serve_head(scope, receive, send)
        elif method == "OPTIONS" and methods:
            await Response(status_code=204, headers={"allow": _allow(methods)})(scope, receive, send)
        else:
            refusal = _refuse_method(scope, _allow(methods)) if methods else _refuse_path(scope)
            await refuse(scope, refusal, retry_after=self._retry_after)(scope, receive, send)

    async def _serve_head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a GET. The server knows that the request was HEAD, and leaves the reply's body out."""
        get_scope = {**scope, "method": "GET"}
        try:
            await self.app(get_scope, receive, send)
        finally:
            scope["route"] = get_scope.get("route")

    def _find_methods(self, path: str) -> set[str]:
        """The methods that routes have at a path; none where there is no route.

        The whole path counts: the router alone would take a line end at its end for nothing, and ``s%0A`` for ``s``.
        """
        return {method for route in self._routes if route.path_regex.fullmatch(path) for method in route.methods or ()}


def _spellings(path: str) -> Iterator[str]:
    """What a path may stand for: itself, without slashes around it, and each of both under the prefix."""
    bare = "/" + path.strip("/")
    yield path
    yield bare
    yield PREFIX + path
    yield PREFIX + bare


def _allow(methods: set[str]) -> str:
    """The header Allow for a path at which routes have these methods."""
    allowed = methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
    return ", ".join(sorted(allowed, key=METHODS.index))


def _refuse_path(scope: Scope) -> HttpRefusal:
    path = scope["path"][:MAX_NAMED]
    return HttpRefusal(f"there is nothing at {path}; the API lies under {PREFIX}.", status=404, code="not_found")


def _refuse_method(scope: Scope, allow: str) -> HttpRefusal:
    return HttpRefusal(
        f"{scope['method']} is not served at {scope['path'][:MAX_NAMED]}, but {allow}.",
        status=405,
        code="method_not_allowed",
        headers={"allow": allow},
    )
