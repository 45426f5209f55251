"""``POST /v1/route``: the niche domains of a prompt, in the dialects of two sibling services, or of a conversation."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from msgspec import Meta, Struct

from runtime.facade.body import read_body
from runtime.facade.chat.fields import decode_body
from runtime.facade.chat.messages import SentMessage, parse_messages
from runtime.facade.dependencies import Parts, Tenant
from schemas.calls import ROUTE
from schemas.chat import Message, last_user_text
from schemas.errors import InvalidInput
from schemas.router import RoutedPrompt, RouteRequest

router = APIRouter()
BASE = "base"
"""The domain's name when none fits: the base model answers."""


class RouteBody(Struct, frozen=True, kw_only=True):
    """``query`` with its options (life-core), ``prompt`` (kiki-cockpit), or ``messages`` as in a chat completion."""

    query: str | None = None
    prompt: str | None = None
    messages: list[SentMessage] | None = None
    threshold: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=1, le=31)] = 4


@router.post("/v1/route")
async def classify_prompt(request: Request, parts: Parts, _: Tenant) -> JSONResponse:
    """Classify one prompt, or the last user message of a conversation; a bad value is a 422."""
    body = decode_body(
        RouteBody, await read_body(request, parts), strict=parts.settings.strict_fields, code="unprocessable"
    )
    param, text, messages = _read_body(body)
    prompts = () if messages else (text,)
    route_request = RouteRequest(prompts=prompts, messages=messages, threshold=body.threshold, top_k=body.top_k)
    reply = await parts.bus.request(ROUTE, route_request, timeout=parts.settings.route_timeout)
    result = reply.results[0]
    by_query, by_prompt = _query_dialect(text, result), _prompt_dialect(result)
    return JSONResponse({"query": by_query, "prompt": by_prompt, "messages": {**by_query, **by_prompt}}[param])


def _read_body(body: RouteBody) -> tuple[str, str, tuple[Message, ...]]:
    """The field that is given, the text that is classified, and the conversation around it (empty for a prompt).

    Raises:
        InvalidInput: there is no such field, or more than one, or no text in it.
    """
    fields = [name for name in ("query", "prompt", "messages") if getattr(body, name) is not None]
    if len(fields) != 1:
        raise InvalidInput(
            "send one of 'query', 'prompt' and 'messages'.",
            code="unprocessable",
            param=fields[0] if fields else "prompt",
        )
    param = fields[0]
    messages = () if body.messages is None else _parse_conversation(body.messages)
    text = last_user_text(messages) if messages else (body.prompt if body.query is None else body.query)
    if not text or not text.strip():
        raise InvalidInput(f"'{param}' has no text to classify: send some.", code="unprocessable", param=param)
    return param, text, messages


def _parse_conversation(sent_messages: list[SentMessage]) -> tuple[Message, ...]:
    try:
        return parse_messages(sent_messages)
    except InvalidInput as error:
        raise InvalidInput(error.message, code="unprocessable", param=error.param) from error


def _query_dialect(text: str, result: RoutedPrompt) -> dict[str, Any]:
    return {
        "query": text,
        "domains": [{"name": domain.niche, "score": domain.score} for domain in result.domains],
        "fallback": not result.domains,
    }


def _prompt_dialect(result: RoutedPrompt) -> dict[str, Any]:
    return {
        "chosen_domain": result.domains[0].niche if result.domains else BASE,
        "selections": [{"domain": domain.niche, "score": domain.score} for domain in result.domains],
    }
