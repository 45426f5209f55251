"""``GET /v1/turns/{turn_id}``: what each stage decided, for the tenant and the user of the turn."""

from typing import Any

import msgspec
from fastapi import APIRouter
from fastapi.responses import JSONResponse

from bus.turns.events import StoredEvent, read_turn_events
from runtime.facade.dependencies import Parts, WhoseMemory
from runtime.facade.owner import Owner
from schemas.envelope import is_turn_id
from schemas.errors import InvalidInput

router = APIRouter()


@router.get("/v1/turns/{turn_id}")
async def show_turn(turn_id: str, parts: Parts, owner: WhoseMemory) -> JSONResponse:
    """The stored events of a turn, in order, without the query's vector."""
    entries = await _load_events(turn_id, parts, owner)
    if not entries:
        raise InvalidInput(f"no turn '{turn_id}' of yours is stored.", code="turn_not_found", param="turn_id")
    return JSONResponse({"id": turn_id, "object": "turn", "events": [_event(entry) for entry in entries]})


async def _load_events(turn_id: str, parts: Parts, owner: Owner) -> list[StoredEvent]:
    if not is_turn_id(turn_id):
        return []
    try:
        entries = await read_turn_events(parts.bus, turn_id)
    except InvalidInput:
        return []
    envelopes = [entry.event.envelope for entry in entries]
    return [entry for entry, of in zip(entries, envelopes, strict=True) if (of.tenant, of.user) == owner]


def _event(entry: StoredEvent) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.to_builtins(entry.event)
    for holder in ("route", "episode"):
        if isinstance(body.get(holder), dict):
            body[holder].pop("embedding", None)
    return {
        "seq": entry.seq,
        "stored_at": entry.stored_at.isoformat(),
        "subject": entry.subject,
        "event": body,
    }
