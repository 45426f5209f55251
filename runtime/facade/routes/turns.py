"""``GET /v1/turns/{turn_id}``: what each stage decided, for the tenant who asked."""

from typing import Any

import msgspec
from fastapi import APIRouter
from fastapi.responses import JSONResponse

from bus.turn_events import Told, tell
from runtime.facade.dependencies import Parts, Tenant
from schemas.envelope import is_turn_id
from schemas.errors import InvalidInput

router = APIRouter()


@router.get("/v1/turns/{turn_id}")
async def story(turn_id: str, parts: Parts, tenant: Tenant) -> JSONResponse:
    """The stored events of a turn, in order, without the query's vector."""
    told = await _of(turn_id, parts, tenant)
    if not told:
        raise InvalidInput(f"no turn '{turn_id}' of yours is stored.", code="turn_not_found", param="turn_id")
    return JSONResponse({"id": turn_id, "object": "turn", "events": [_event(one) for one in told]})


async def _of(turn_id: str, parts: Parts, tenant: str) -> list[Told]:
    if not is_turn_id(turn_id):
        return []
    try:
        told = await tell(parts.bus, turn_id)
    except InvalidInput:
        return []
    return [one for one in told if one.event.envelope.tenant == tenant]


def _event(told: Told) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.to_builtins(told.event)
    for holder in ("route", "episode"):
        if isinstance(body.get(holder), dict):
            body[holder].pop("embedding", None)
    return {
        "seq": told.seq,
        "stored_at": told.stored_at.isoformat(),
        "subject": told.event.subject,
        "event": body,
    }
