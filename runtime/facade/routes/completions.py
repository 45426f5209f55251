"""``POST /v1/completions``: texts that the model continues, plain or streamed."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from runtime.facade.body import read_body
from runtime.facade.chat.fields import decode_body
from runtime.facade.chat.stream import StreamPart, TurnStream
from runtime.facade.completions.dialect import CompletionDialect, CompletionStream, describe_completion
from runtime.facade.completions.request import CompletionRequest, check_completion
from runtime.facade.dependencies import Parts, Tenant
from runtime.facade.exchange import describe_answers, prepare_turn, take_answers

router = APIRouter()


@router.post("/v1/completions")
async def create_completion(request: Request, parts: Parts, tenant: Tenant) -> Response:
    """Continue each prompt."""
    data = await read_body(request, parts)
    body = decode_body(CompletionRequest, data, strict=parts.settings.strict_fields)
    completion = check_completion(body, models=parts.models, settings=parts.settings)
    follows = [
        await prepare_turn(request, turn, parts=parts, tenant=tenant, number=number)
        for number, turn in enumerate(completion.turns)
    ]
    if completion.first.stream:
        stream = CompletionStream()
        dialects = [CompletionDialect(completion, number, stream) for number in range(len(follows))]
        turns = zip(follows, completion.turns, dialects, strict=True)
        stream_parts = [StreamPart(follow=follow, request=turn, dialect=dialect) for follow, turn, dialect in turns]
        return TurnStream(stream_parts, parts.settings)
    answers = await take_answers(request, follows)
    return JSONResponse(describe_completion(completion, answers), headers=describe_answers(completion.first, answers))
