"""The endpoints' dependencies: the parts that they share, whose request it is, and the admin key."""

import hmac
import time
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from bus.connection import Bus
from runtime.catalogue import Catalogue
from runtime.facade.abilities import Abilities
from runtime.facade.chat.turns import Turns
from runtime.facade.embeddings import EmbedderClient
from runtime.facade.owner import Owner, name_user
from runtime.facade.settings import FacadeSettings
from schemas.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Facade:
    """The parts that every endpoint shares; ``started_at`` is on the monotonic clock."""

    bus: Bus
    settings: FacadeSettings
    models: Catalogue
    turns: Turns
    abilities: Abilities
    embedder: EmbedderClient
    started_at: float = field(default_factory=time.monotonic)


def parts_of(request: Request) -> Facade:
    """The facade that serves ``request``."""
    facade = request.app.state.facade
    assert isinstance(facade, Facade)
    return facade


async def _get_parts(request: Request) -> Facade:
    return parts_of(request)


KEY_HEADERS = ("x-api-key", "api-key")
"""Headers that hold the key alone: Anthropic's clients send the first one, Azure's the second."""


def _sends_key(request: Request, expected: str) -> bool:
    """Whether a request sends a key, as a bearer or in one of :data:`KEY_HEADERS`."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    keys = [bearer.strip()] if scheme.lower() == "bearer" else []
    keys += [request.headers.get(name, "") for name in KEY_HEADERS]
    return any(hmac.compare_digest(key.encode(), expected.encode()) for key in keys)


async def find_tenant(request: Request) -> str:
    """Dependency: the tenant of the request's key.

    Raises:
        InvalidInput: the settings have keys, and the request sends none of them.
    """
    settings = parts_of(request).settings
    if not settings.api_keys:
        return settings.default_tenant
    tenants = [tenant for key, tenant in settings.api_keys.items() if _sends_key(request, key)]
    if not tenants:
        raise InvalidInput(
            "no valid API key: send 'Authorization: Bearer KEY' with a key of this facade (or X-Api-Key, or api-key).",
            code="unauthorized",
            param="Authorization",
        )
    return tenants[0]


async def find_owner(request: Request, tenant: Annotated[str, Depends(find_tenant)]) -> Owner:
    """Dependency of requests that have no body: the tenant, and the user whom a header or the query names."""
    settings = parts_of(request).settings
    user = name_user(request.headers, ("user", request.query_params.get("user")), one_memory=settings.one_memory)
    return Owner(tenant, user)


async def require_admin_key(request: Request) -> None:
    """Dependency of the endpoints that only the operator may read.

    Raises:
        InvalidInput: the settings have an admin key, and the request does not send it.
    """
    expected = parts_of(request).settings.admin_key
    if expected is not None and not _sends_key(request, expected):
        raise InvalidInput(
            "this needs the admin key: send it as 'Authorization: Bearer KEY'.",
            code="unauthorized",
            param="Authorization",
        )


Parts = Annotated[Facade, Depends(_get_parts)]
Tenant = Annotated[str, Depends(find_tenant)]
WhoseMemory = Annotated[Owner, Depends(find_owner)]
