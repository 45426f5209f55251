"""``/v1/responses``: a turn whose answer may be read again, continued, cancelled while it runs, and deleted."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from runtime.facade.body import read_body
from runtime.facade.chat.fields import decode_body
from runtime.facade.dependencies import Parts, Tenant, WhoseMemory
from runtime.facade.exchange import serve_turn
from runtime.facade.owner import Owner, name_user
from runtime.facade.responses.dialect import ResponseDialect
from runtime.facade.responses.earlier import EarlierResponses
from runtime.facade.responses.request import ResponseRequest, check_response, refuse_unserved
from schemas.calls import MEMORY_FORGET
from schemas.errors import InvalidInput
from schemas.events import TurnCancelled
from schemas.memory import ForgetRequest

router = APIRouter()
MAX_ITEMS = 100


@router.post("/v1/responses")
async def create_response(request: Request, parts: Parts, tenant: Tenant) -> Response:
    """Answer an input, which may continue an earlier response."""
    data = await read_body(request, parts)
    body = decode_body(ResponseRequest, data, strict=parts.settings.strict_fields)
    refuse_unserved(body)
    users = (("user", body.user), ("safety_identifier", body.safety_identifier))
    user = name_user(request.headers, *users, one_memory=parts.settings.one_memory)
    responses = EarlierResponses(parts.bus, Owner(tenant, user))
    previous = await responses.read_previous(body.previous_response_id) if body.previous_response_id else None
    chat_request, terms = check_response(
        body,
        await responses.resolve(body.input or ()),
        previous.continue_messages() if previous else (),
        models=parts.models,
        settings=parts.settings,
    )
    dialect = ResponseDialect(chat_request, terms)
    session = previous.envelope.session_id if previous else None
    return await serve_turn(request, chat_request, dialect, parts=parts, tenant=tenant, session_id=session)


@router.get("/v1/responses/{response_id}")
async def show_response(response_id: str, parts: Parts, owner: WhoseMemory, stream: bool = False) -> JSONResponse:
    """A response, written again; one that still runs has no output yet."""
    if stream:
        raise InvalidInput("a response is not streamed again: leave 'stream' out.", param="stream")
    return JSONResponse((await EarlierResponses(parts.bus, owner).read(response_id)).describe())


@router.get("/v1/responses/{response_id}/input_items")
async def list_input_items(
    response_id: str,
    parts: Parts,
    owner: WhoseMemory,
    limit: Annotated[int, Query(ge=1, le=MAX_ITEMS)] = 20,
    order: Literal["asc", "desc"] = "desc",
    after: str | None = None,
) -> JSONResponse:
    """The items that a response was made from, those of the responses that it continued included."""
    items = (await EarlierResponses(parts.bus, owner).read(response_id)).describe_input()
    if order == "desc":
        items.reverse()
    if after is not None:
        places = [at for at, item in enumerate(items) if item["id"] == after]
        if not places:
            raise InvalidInput(f"'{after}' is no item of this response.", param="after")
        items = items[places[0] + 1 :]
    return JSONResponse(_page(items[:limit], has_more=len(items) > limit))


@router.delete("/v1/responses/{response_id}")
async def delete_response(response_id: str, parts: Parts, owner: WhoseMemory) -> JSONResponse:
    """Forget a response's turn: it is not shown, continued or recalled any more.

    Later responses that continued it keep what they were made from.
    """
    earlier = await EarlierResponses(parts.bus, owner).read(response_id)
    if earlier.runs:
        raise InvalidInput(f"'{response_id}' still runs: cancel it first.", param="id")
    request = ForgetRequest(tenant=owner.tenant, user=owner.user, turn_id=earlier.envelope.turn_id)
    await parts.bus.request(MEMORY_FORGET, request, timeout=parts.settings.forget_timeout)
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})


@router.post("/v1/responses/{response_id}/cancel")
async def cancel_response(response_id: str, parts: Parts, owner: WhoseMemory) -> JSONResponse:
    """Cancel a response that runs; who waits for it is told so."""
    responses = EarlierResponses(parts.bus, owner)
    earlier = await responses.read(response_id)
    if earlier.runs:
        envelope = earlier.envelope.next(TurnCancelled.subject)
        await parts.bus.publish(TurnCancelled(envelope=envelope, reason="its client asked for that"))
        earlier = await responses.read(response_id)
    if not earlier.is_cancelled:
        raise InvalidInput(f"'{response_id}' has ended: only a response that runs can be cancelled.", param="id")
    return JSONResponse(earlier.describe())


def _page(items: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    ids = [item["id"] for item in items]
    ends = {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
    return {"object": "list", "data": items, "has_more": has_more, **ends}
