"""What the endpoints are made of, and who is asking."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from agents.router.aliases import Alias
from bus.connection import Bus
from runtime.facade.chat.turns import Turns
from runtime.facade.settings import FacadeSettings
from schemas.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Facade:
    """The parts that every endpoint shares."""

    bus: Bus
    settings: FacadeSettings
    aliases: Mapping[str, Alias]
    turns: Turns


def parts_of(request: Request) -> Facade:
    """The facade that serves ``request``."""
    facade = request.app.state.facade
    assert isinstance(facade, Facade)
    return facade


async def _parts(request: Request) -> Facade:
    return parts_of(request)


def _bearer(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


async def _tenant(request: Request) -> str:
    settings = parts_of(request).settings
    if not settings.api_keys:
        return settings.default_tenant
    given = _bearer(request)
    found = [tenant for key, tenant in settings.api_keys.items() if _same(given, key)]
    if not found:
        raise InvalidInput(
            "no valid API key: send 'Authorization: Bearer KEY' with a key of this facade.",
            code="unauthorized",
            param="Authorization",
        )
    return found[0]


async def admin_only(request: Request) -> None:
    """Dependency of what only the operator may read.

    Raises:
        InvalidInput: there is an admin key and it was not sent.
    """
    expected = parts_of(request).settings.admin_key
    if expected is not None and not _same(_bearer(request), expected):
        raise InvalidInput(
            "this needs the admin key: send it as 'Authorization: Bearer KEY'.",
            code="unauthorized",
            param="Authorization",
        )


Parts = Annotated[Facade, Depends(_parts)]
Tenant = Annotated[str, Depends(_tenant)]
