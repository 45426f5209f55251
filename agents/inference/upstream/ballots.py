"""Scores choices after one conversation or several (votes), as far as the upstream sends log-probabilities."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from agents.inference.requests import DecodingOutcome, Request
from agents.inference.upstream import scoring
from agents.inference.upstream.connection import UpstreamConnection
from agents.inference.upstream.response import likeliest, token_entries
from agents.inference.upstream.together import run_together
from bus.metrics import count_degraded
from schemas.errors import InvalidInput, StageFailed
from schemas.findings import AdapterUse

_AS_PROMPT = {"prompt_logprobs": 0, "add_generation_prompt": False, "continue_final_message": True}
"""vLLM's fields: the last message is continued, and each token of the prompt comes with its log-probability."""


@dataclass(frozen=True)
class _BallotScores:
    totals: tuple[float, ...]
    prompt_tokens: int
    exact: bool


async def score_choices(
    connection: UpstreamConnection, request: Request, uses: tuple[AdapterUse, ...]
) -> DecodingOutcome:
    """The scores of the choices after each ballot.

    Raises:
        InvalidInput: there are no choices, one is empty, or the upstream sends no log-probabilities.
        StageFailed: the upstream sent no log-probabilities after all, or none of its tokens begins exactly one choice.
        KikiError: what the calls raise.
    """
    can, started = connection.require_capabilities(), time.monotonic()
    if not all(request.choices) or not request.choices:
        raise InvalidInput("a choice is empty; each needs at least one character.", param="choices")
    if not can.top_logprobs and not can.prompt_logprobs:
        raise InvalidInput("this upstream sends no log-probabilities, which choices need.", param="choices")
    ballots = [replace(request, messages=(*request.messages, *ballot)) for ballot in request.ballots or ((),)]

    def prepare_ballot(ballot: Request) -> Callable[[], Awaitable[_BallotScores]]:
        return lambda: _score_ballot(connection, ballot, uses)

    ballot_scores = await run_together([prepare_ballot(ballot) for ballot in ballots])
    prompt_tokens = sum(scores.prompt_tokens for scores in ballot_scores)
    connection.counts["prompt_tokens_total"] += prompt_tokens
    return DecodingOutcome(
        scores=tuple(scores.totals for scores in ballot_scores),
        adapters=uses,
        prompt_tokens=prompt_tokens,
        compute=time.monotonic() - started,
        exact=all(scores.exact for scores in ballot_scores),
    )


async def _score_ballot(
    connection: UpstreamConnection, request: Request, uses: tuple[AdapterUse, ...]
) -> _BallotScores:
    """Score one ballot: by the end of the prompt where the upstream sends its tokens, else by the first token drawn."""
    can = connection.require_capabilities()
    body = await connection.build_body(request, uses) | {"max_tokens": 1, "temperature": 0.0, "logprobs": True}
    if can.top_logprobs:
        body["top_logprobs"] = can.top_logprobs
    reply = await connection.complete(body, request=request)
    prompt_tokens = int((reply.get("usage") or {}).get("prompt_tokens") or 0)
    totals = await _score_exactly(connection, request, body, prompt_tokens) if can.prompt_logprobs else None
    if totals is not None:
        return _BallotScores(tuple(totals), prompt_tokens, exact=True)
    count_degraded("upstream.scoring", "the upstream scores choices by their first token only")
    entries = token_entries(reply)
    if not entries:
        raise StageFailed("the upstream sent no log-probabilities of the choices.")
    return _BallotScores(
        tuple(scoring.first_token_scores(request.choices, likeliest(entries[0]))), prompt_tokens, exact=False
    )


async def _score_exactly(
    connection: UpstreamConnection, request: Request, body: dict[str, Any], prompt_tokens: int
) -> list[float] | None:
    """Each choice's total log-probability as the end of a prompt; None if the tokens of one of them cannot be separated
    from the prompt's."""

    def prepare_choice(choice: str) -> Callable[[], Awaitable[float | None]]:
        async def call() -> float | None:
            messages = [*body["messages"], {"role": "assistant", "content": choice}]
            changed = {**body, "messages": messages, "extra_body": {**body["extra_body"], **_AS_PROMPT}}
            reply = await connection.complete(changed, request=request)
            return scoring.continuation_score(choice, reply.get("prompt_logprobs") or (), prompt_tokens=prompt_tokens)

        return call

    totals = await run_together([prepare_choice(choice) for choice in request.choices])
    exact_totals = [total for total in totals if total is not None]
    return exact_totals if len(exact_totals) == len(totals) else None
