"""``POST /v1/messages`` and ``POST /v1/messages/count_tokens``: Anthropic's interface."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from runtime.facade.body import read_body
from runtime.facade.chat.fields import decode_body
from runtime.facade.chat.request import check_chat
from runtime.facade.dependencies import Parts, Tenant
from runtime.facade.exchange import serve_turn
from runtime.facade.messages.dialect import MessagesDialect
from runtime.facade.messages.request import CountedMessages, MessagesRequest, translate_prompt, translate_request
from schemas.calls import COUNT
from schemas.tokens import CountRequest

router = APIRouter()


@router.post("/v1/messages")
async def create_message(request: Request, parts: Parts, tenant: Tenant) -> Response:
    """Answer a conversation."""
    data = await read_body(request, parts)
    body = decode_body(MessagesRequest, data, strict=parts.settings.strict_fields)
    chat_request = check_chat(translate_request(body), models=parts.models, settings=parts.settings)
    dialect = MessagesDialect(chat_request, request_id=request.state.request_id)
    return await serve_turn(request, chat_request, dialect, parts=parts, tenant=tenant)


@router.post("/v1/messages/count_tokens")
async def count_message_tokens(request: Request, parts: Parts, _: Tenant) -> JSONResponse:
    """Count the tokens of the prompt that a conversation makes, even of one that is too long for the model."""
    data = await read_body(request, parts)
    body = decode_body(CountedMessages, data, strict=parts.settings.strict_fields)
    query = check_chat(translate_prompt(body), models=parts.models, settings=parts.settings).query
    thinking = parts.models[query.model].thinking if query.thinking is None else query.thinking
    count_request = CountRequest(messages=query.messages, tooling=query.tooling, thinking=thinking)
    reply = await parts.bus.request(COUNT, count_request, timeout=parts.settings.count_timeout)
    return JSONResponse({"input_tokens": reply.tokens})
