"""Decodes the candidates of a request, with one call for each."""

import time
from collections.abc import Awaitable, Callable

from agents.inference.candidates import seed_of
from agents.inference.json_schema.grammar import check_schema
from agents.inference.json_schema.references import SchemaFault
from agents.inference.requests import DecodingOutcome, OnPiece, Request
from agents.inference.text import Piece
from agents.inference.tools import callable_tools, check_tools
from agents.inference.upstream.capabilities import Capabilities
from agents.inference.upstream.connection import UpstreamConnection
from agents.inference.upstream.request import continuation_fields
from agents.inference.upstream.response import Answer
from agents.inference.upstream.together import run_together
from schemas.chat import Sampling
from schemas.errors import InvalidInput
from schemas.findings import AdapterUse


async def decode_candidates(
    connection: UpstreamConnection, request: Request, uses: tuple[AdapterUse, ...], on_piece: OnPiece | None
) -> DecodingOutcome:
    """Decode all candidates; ``on_piece`` gets the pieces of the first.

    Raises:
        InvalidInput: the upstream would silently ignore a part of the request.
        KikiError: what the calls raise.
    """
    can, started = connection.require_capabilities(), time.monotonic()
    refuse_unsupported(request, can)

    def prepare_candidate(index: int) -> Callable[[], Awaitable[Answer]]:
        return lambda: _decode_candidate(connection, request, uses, index=index, on_piece=None if index else on_piece)

    answers = await run_together([prepare_candidate(index) for index in range(request.n)])
    with_tokens = request.sampling.logprobs
    candidates = tuple(answer.candidate(adapters=uses, with_tokens=with_tokens) for answer in answers)
    connection.counts["prompt_tokens_total"] += sum(candidate.usage.prompt_tokens for candidate in candidates)
    connection.counts["tokens_decoded_total"] += sum(candidate.usage.completion_tokens for candidate in candidates)
    return DecodingOutcome(
        candidates=candidates,
        adapters=uses,
        prompt_tokens=candidates[0].usage.prompt_tokens,
        compute=time.monotonic() - started,
    )


def refuse_unsupported(request: Request, can: Capabilities) -> None:
    """Refuse what this upstream would silently ignore, and schemas that nobody can follow.

    Raises:
        InvalidInput: ``param`` names it.
    """
    sampling, tooling = request.sampling, request.tooling
    if tooling is not None:
        check_tools(tooling.tools)
    if tooling is not None and not can.tools:
        raise InvalidInput("this upstream does not pass tools to its model.", param="tools")
    if tooling is not None and tooling.must_call and not can.forced_tools:
        raise InvalidInput("this upstream cannot force a tool call: use tool_choice 'auto'.", param="tool_choice")
    if sampling.json_schema is not None and not can.schemas:
        raise InvalidInput("this upstream does not follow JSON schemas.", param="response_format")
    if tooling is not None and tooling.must_call:
        for tool in callable_tools(tooling):
            _check_schema(tool.parameters, f"the parameters of '{tool.name}'", param="tools")
    if sampling.json_schema is not None:
        _check_schema(sampling.json_schema, "the JSON schema", param="response_format")
    if sampling.logprobs and not can.token_texts:
        raise InvalidInput("this upstream does not send tokens with their log-probabilities.", param="logprobs")
    if sampling.top_logprobs > can.top_logprobs:
        raise InvalidInput(f"this upstream sends {can.top_logprobs} likeliest tokens at most.", param="top_logprobs")


def _check_schema(schema: str, what: str, *, param: str) -> None:
    try:
        check_schema(schema)
    except SchemaFault as fault:
        raise InvalidInput(f"{what} cannot be served: {fault}.", param=param) from fault


async def _decode_candidate(
    connection: UpstreamConnection,
    request: Request,
    uses: tuple[AdapterUse, ...],
    *,
    index: int,
    on_piece: OnPiece | None,
) -> Answer:
    sampling, can = request.sampling, connection.require_capabilities()
    answer = Answer(
        index=index, seed=seed_of(sampling, index), stops=sampling.stop, thinking=connection.upstream.thinking
    )
    body = await connection.build_body(request, uses, candidate=index) | _supported_fields(sampling, can)
    if can.continues:
        body["extra_body"] = {**body["extra_body"], **continuation_fields(request.messages)}
    if can.stream_logprobs or not can.whole_logprobs or (on_piece is not None and not sampling.logprobs):
        async with connection.open_stream(body, lane=request.lane) as chunks:
            async for chunk in chunks:
                await _pass_on(answer.take(chunk), on_piece)
                if answer.stopped:
                    break
    else:  # this server sends log-probabilities only at the end
        await _pass_on(answer.take(await connection.complete(body, lane=request.lane)), on_piece)
    with connection.translate_errors():
        rest = answer.end()
    await _pass_on(rest, on_piece)
    return answer


def _supported_fields(sampling: Sampling, can: Capabilities) -> dict[str, object]:
    """Fields that are sent only to a server that supports them; stop strings are applied here anyway, and
    missing log-probabilities are counted."""
    fields: dict[str, object] = {}
    if sampling.stop and can.stops:
        fields["stop"] = list(sampling.stop)
    if can.stream_logprobs or can.whole_logprobs:
        fields["logprobs"] = True
    if sampling.top_logprobs:
        fields["top_logprobs"] = sampling.top_logprobs
    return fields


async def _pass_on(pieces: list[Piece], on_piece: OnPiece | None) -> None:
    for piece in pieces if on_piece is not None else ():
        assert on_piece is not None
        await on_piece(piece)
