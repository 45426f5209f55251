"""``POST /v1/route``: the niche domains of a prompt, in the two dialects that the sibling services speak."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from msgspec import Meta, Struct

from runtime.facade.body import read_body
from runtime.facade.chat.fields import decode_body
from runtime.facade.dependencies import Parts, Tenant
from schemas.errors import InvalidInput
from schemas.router import RoutedPrompt, RouteReply, RouteRequest

router = APIRouter()
BASE = "base"
"""The domain's name when none fits: the base model answers."""


class RouteBody(Struct, frozen=True, kw_only=True):
    """``query`` with its options (life-core), or ``prompt`` (kiki-cockpit)."""

    query: str | None = None
    prompt: str | None = None
    threshold: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=1, le=31)] = 4


@router.post("/v1/route")
async def classify_prompt(request: Request, parts: Parts, _: Tenant) -> JSONResponse:
    """Classify one prompt; a bad value is a 422."""
    body = decode_body(
        RouteBody, await read_body(request, parts.settings), strict=parts.settings.strict_fields, code="unprocessable"
    )
    text, param = (body.prompt, "prompt") if body.query is None else (body.query, "query")
    if text is None or (body.query is not None and body.prompt is not None):
        raise InvalidInput("send either 'query' or 'prompt'.", code="unprocessable", param=param)
    if not text.strip():
        raise InvalidInput(f"'{param}' is empty: send text.", code="unprocessable", param=param)
    route_request = RouteRequest(prompts=(text,), threshold=body.threshold, top_k=body.top_k)
    reply = await parts.bus.request("route", route_request, RouteReply, timeout=parts.settings.route_timeout)
    result = reply.results[0]
    return JSONResponse(_query_dialect(text, result) if param == "query" else _prompt_dialect(result))


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
