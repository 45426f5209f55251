"""The candidates of a request, each by a call of its own."""

import time
from collections.abc import Awaitable, Callable

from agents.inference.candidates import seed_of
from agents.inference.requests import OnPiece, Outcome, Request
from agents.inference.text import Piece
from agents.inference.upstream.capabilities import Capabilities
from agents.inference.upstream.connection import Line
from agents.inference.upstream.response import Answer
from agents.inference.upstream.together import together
from schemas.chat import Sampling
from schemas.errors import InvalidInput
from schemas.findings import AdapterUse


async def decoded(line: Line, request: Request, uses: tuple[AdapterUse, ...], on_piece: OnPiece | None) -> Outcome:
    """All candidates; ``on_piece`` hears the first.

    Raises:
        InvalidInput: this upstream would leave something out without a word.
        KikiError: what the calls raise.
    """
    can, started = line.able(), time.monotonic()
    refuse(request, can)

    def one(index: int) -> Callable[[], Awaitable[Answer]]:
        return lambda: _candidate(line, request, uses, index=index, on_piece=None if index else on_piece)

    answers = await together([one(index) for index in range(request.n)])
    tell = request.sampling.logprobs
    candidates = tuple(answer.candidate(adapters=uses, tell_tokens=tell) for answer in answers)
    line.counts["prompt_tokens_total"] += sum(one.usage.prompt_tokens for one in candidates)
    line.counts["tokens_decoded_total"] += sum(one.usage.completion_tokens for one in candidates)
    return Outcome(
        candidates=candidates,
        adapters=uses,
        prompt_tokens=candidates[0].usage.prompt_tokens,
        compute=time.monotonic() - started,
    )


def refuse(request: Request, can: Capabilities) -> None:
    """Raises InvalidInput for what this upstream would leave out without a word."""
    asked, tooling = request.sampling, request.tooling
    if tooling is not None and not can.tools:
        raise InvalidInput("this upstream's model is told no tools.", param="tools")
    if tooling is not None and tooling.must_call and not can.forced_tools:
        raise InvalidInput("this upstream cannot make sure of a call: ask with 'auto'.", param="tool_choice")
    if asked.json_schema is not None and not can.schemas:
        raise InvalidInput("this upstream does not follow JSON schemas.", param="response_format")
    if asked.logprobs and not can.token_texts:
        raise InvalidInput("this upstream does not tell tokens with their log-probabilities.", param="logprobs")
    if asked.top_logprobs > can.top_logprobs:
        raise InvalidInput(f"this upstream tells {can.top_logprobs} likeliest tokens at most.", param="top_logprobs")


async def _candidate(
    line: Line, request: Request, uses: tuple[AdapterUse, ...], *, index: int, on_piece: OnPiece | None
) -> Answer:
    asked, can = request.sampling, line.able()
    answer = Answer(index=index, seed=seed_of(asked, index), stops=asked.stop, thinking=line.upstream.thinking)
    body = await line.body(request, uses, candidate=index) | _told(asked, can)
    if can.stream_logprobs or not can.whole_logprobs or (on_piece is not None and not asked.logprobs):
        async with line.streaming(body, lane=request.lane) as chunks:
            async for chunk in chunks:
                await _hear(answer.take(chunk), on_piece)
                if answer.stopped:
                    break
    else:  # this server tells log-probabilities only at the end
        await _hear(answer.take(await line.whole(body, lane=request.lane)), on_piece)
    with line.telling():
        rest = answer.end()
    await _hear(rest, on_piece)
    return answer


def _told(asked: Sampling, can: Capabilities) -> dict[str, object]:
    """What is only asked of a server that does it; else it is done here, or missed and counted."""
    found: dict[str, object] = {}
    if asked.stop and can.stops:
        found["stop"] = list(asked.stop)
    if can.stream_logprobs or can.whole_logprobs:
        found["logprobs"] = True
    if asked.top_logprobs:
        found["top_logprobs"] = asked.top_logprobs
    return found


async def _hear(pieces: list[Piece], on_piece: OnPiece | None) -> None:
    for piece in pieces if on_piece is not None else ():
        assert on_piece is not None
        await on_piece(piece)
