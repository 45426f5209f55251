"""Choices scored after one conversation or several: votes, as far as the upstream tells log-probabilities."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from agents.inference.requests import Outcome, Request
from agents.inference.upstream import scoring
from agents.inference.upstream.connection import Line
from agents.inference.upstream.response import drawn, likeliest
from agents.inference.upstream.together import together
from bus.metrics import degraded
from schemas.errors import InvalidInput, StageFailed
from schemas.findings import AdapterUse

_AS_PROMPT = {"prompt_logprobs": 0, "add_generation_prompt": False, "continue_final_message": True}
"""vLLM's fields: the last message goes on, and each token of the prompt tells its log-probability."""


@dataclass(frozen=True)
class _Scored:
    totals: tuple[float, ...]
    prompt_tokens: int
    exact: bool


async def scored(line: Line, request: Request, uses: tuple[AdapterUse, ...]) -> Outcome:
    """The choices after each ballot.

    Raises:
        InvalidInput: a choice is empty, or the upstream tells no log-probabilities.
        StageFailed: what it told says nothing about the choices.
        KikiError: what the calls raise.
    """
    can, started = line.able(), time.monotonic()
    if not all(request.choices) or not request.choices:
        raise InvalidInput("a choice is empty; each needs at least one character.", param="choices")
    if not can.top_logprobs and not can.prompt_logprobs:
        raise InvalidInput("this upstream tells no log-probabilities, which choices need.", param="choices")
    asked = [replace(request, messages=(*request.messages, *ballot)) for ballot in request.ballots or ((),)]

    def one(ballot: Request) -> Callable[[], Awaitable[_Scored]]:
        return lambda: _ballot(line, ballot, uses)

    found = await together([one(ballot) for ballot in asked])
    prompt_tokens = sum(one.prompt_tokens for one in found)
    line.counts["prompt_tokens_total"] += prompt_tokens
    return Outcome(
        scores=tuple(one.totals for one in found),
        adapters=uses,
        prompt_tokens=prompt_tokens,
        compute=time.monotonic() - started,
        exact=all(one.exact for one in found),
    )


async def _ballot(line: Line, request: Request, uses: tuple[AdapterUse, ...]) -> _Scored:
    """One token after the conversation, and where the upstream tells the prompt, each choice as its end."""
    can = line.able()
    body = await line.body(request, uses) | {"max_tokens": 1, "temperature": 0.0, "logprobs": True}
    if can.top_logprobs:
        body["top_logprobs"] = can.top_logprobs
    reply = await line.whole(body, lane=request.lane)
    prompt_tokens = int((reply.get("usage") or {}).get("prompt_tokens") or 0)
    totals = await _exactly(line, request, body, prompt_tokens) if can.prompt_logprobs else None
    if totals is not None:
        return _Scored(tuple(totals), prompt_tokens, exact=True)
    degraded("upstream.scoring", "the upstream scores choices by their first token only")
    entries = drawn(reply)
    if not entries:
        raise StageFailed("the upstream told no log-probabilities of the choices.")
    return _Scored(tuple(scoring.first_token(request.choices, likeliest(entries[0]))), prompt_tokens, exact=False)


async def _exactly(line: Line, request: Request, body: dict[str, Any], prompt_tokens: int) -> list[float] | None:
    """Each choice's total as the end of a prompt; None if one of them cannot be told apart there."""

    def one(choice: str) -> Callable[[], Awaitable[float | None]]:
        async def call() -> float | None:
            answered = [*body["messages"], {"role": "assistant", "content": choice}]
            changed = {**body, "messages": answered, "extra_body": {**body["extra_body"], **_AS_PROMPT}}
            reply = await line.whole(changed, lane=request.lane)
            return scoring.continuation(choice, reply.get("prompt_logprobs") or (), prompt_tokens=prompt_tokens)

        return call

    totals = await together([one(choice) for choice in request.choices])
    known = [total for total in totals if total is not None]
    return known if len(known) == len(totals) else None
