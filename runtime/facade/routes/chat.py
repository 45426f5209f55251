"""``POST /v1/chat/completions``: one turn, plain or streamed."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from runtime.facade.body import read_body
from runtime.facade.chat.completion import ChatDialect
from runtime.facade.chat.fields import decode_body
from runtime.facade.chat.request import ChatRequest, StreamOptions, check_chat
from runtime.facade.dependencies import Parts, Tenant
from runtime.facade.exchange import serve_turn
from schemas.errors import InvalidInput

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, parts: Parts, tenant: Tenant) -> Response:
    """Answer a conversation."""
    data = await read_body(request, parts)
    body = decode_body(ChatRequest, data, strict=parts.settings.strict_fields)
    if body.stream_options is not None and not body.stream:
        raise InvalidInput("'stream_options' needs 'stream': true.", param="stream_options")
    chat_request = check_chat(body, models=parts.models, settings=parts.settings)
    dialect = ChatDialect(chat_request, include_usage=bool((body.stream_options or StreamOptions()).include_usage))
    return await serve_turn(request, chat_request, dialect, parts=parts, tenant=tenant)
