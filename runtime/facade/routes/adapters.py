"""``/v1/adapters`` for the administrator: what the worker has, and load, check, unload, activate."""

from typing import Any

import msgspec
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from runtime.facade.dependencies import Parts, parts_of, require_admin_key
from schemas.adapters import AdapterInfo, AdapterListRequest, adapter_request
from schemas.calls import ADAPTER_VERBS, ADAPTERS_LS
from schemas.errors import InvalidInput

TIMEOUT = 120.0
"""Seconds for reading an adapter from a slow disk."""


async def require_administrator(request: Request) -> None:
    """Dependency of the endpoints that change the worker: nobody may use them unless the settings have an admin key.

    Raises:
        InvalidInput: no admin key is set, or the request does not send it.
    """
    if parts_of(request).settings.admin_key is None:
        raise InvalidInput(
            "adapters are administered with the admin key, and none is set: set KIKI_ADMIN_KEY.",
            code="unauthorized",
            param="Authorization",
        )
    await require_admin_key(request)


router = APIRouter(dependencies=[Depends(require_administrator)])


@router.get("/v1/adapters")
async def list_adapters(parts: Parts) -> JSONResponse:
    """All registered adapters and where they are now."""
    reply = await parts.bus.request(ADAPTERS_LS, AdapterListRequest(), timeout=TIMEOUT)
    return JSONResponse(
        {
            "object": "list",
            "data": [_adapter_body(info) for info in reply.adapters],
            "budget": reply.budget,
            "worker": reply.worker,
        }
    )


@router.post("/v1/adapters/{name}/{verb}")
async def apply_verb(parts: Parts, name: str, verb: str) -> JSONResponse:
    """One verb on one registered adapter.

    Raises:
        InvalidInput: no such verb, or not a name.
        KikiError: the worker's refusal (``adapter_not_found``, ``adapter_failed``).
    """
    if verb not in ADAPTER_VERBS:
        raise InvalidInput(f"'{verb}' is not one of {', '.join(ADAPTER_VERBS)}.", param="verb")
    request = adapter_request(name)
    return JSONResponse(_adapter_body(await parts.bus.request(ADAPTER_VERBS[verb], request, timeout=TIMEOUT)))


def _adapter_body(info: AdapterInfo) -> dict[str, Any]:
    return {"id": info.name, "object": "adapter", **msgspec.to_builtins(info)}
