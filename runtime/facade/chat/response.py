"""An answer's choices, usage and account, which every dialect writes in its own shape. Pure functions of the answer
that the bus brought."""

from dataclasses import dataclass
from typing import Any

from runtime.facade.chat.request import CheckedRequest
from runtime.turns import deliberation
from schemas.chat import ToolCall, Usage
from schemas.events import AnswerReady
from schemas.findings import Candidate, FinishReason, LikelyToken, StageTiming, TokenLogprob

PIECE = 48
"""Characters of one chunk of text that is sent after it was decoded."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One answer of a reply. ``reasoning`` is empty where it is not shown; ``tokens`` are there when they were asked
    for."""

    index: int
    text: str
    reasoning: str
    calls: tuple[ToolCall, ...]
    tokens: tuple[TokenLogprob, ...]
    finish_reason: FinishReason


def choices(answer: AnswerReady, request: CheckedRequest) -> list[Choice]:
    """The answer; or the ``n`` candidates of a turn of which each is a choice."""
    candidates = answer.inference.candidates
    if request.n > 1:
        return [
            _choice(index, candidate, candidate.text, candidate.finish_reason, request)
            for index, candidate in enumerate(candidates[: request.n])
        ]
    return [_choice(0, winner_of(answer), answer.text, answer.finish_reason, request)]


def winner_of(answer: AnswerReady) -> Candidate:
    """The candidate that was chosen."""
    candidates = answer.inference.candidates
    return candidates[min(answer.negotiation.chosen, len(candidates) - 1)]


def own_usage(answer: AnswerReady, request: CheckedRequest) -> Usage:
    """The tokens of the query's messages and of the answer itself, reasoning included: what a client asked for."""
    inference, bias = answer.inference, answer.bias
    if request.n > 1:
        completion = sum(candidate.usage.completion_tokens for candidate in inference.candidates[: request.n])
    elif bias.revised and bias.tokens:
        completion = bias.tokens
    else:
        completion = winner_of(answer).usage.completion_tokens
    return Usage(prompt_tokens=inference.prompt_tokens or inference.usage.prompt_tokens, completion_tokens=completion)


def usage(counts: Usage) -> dict[str, int]:
    """Tokens as OpenAI counts them."""
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.total_tokens,
    }


def pieces(text: str, size: int = PIECE) -> list[str]:
    """``text`` cut into chunks."""
    return [text[start : start + size] for start in range(0, len(text), size)]


def fingerprint(model_digest: str) -> str | None:
    """A name for the weights that answered; None when their digest is not known."""
    return f"fp_{model_digest[:12]}" if model_digest else None


def bytes_of(token: LikelyToken) -> list[int]:
    """The token's own bytes, which may be a part of a character."""
    return list(token.bytes or token.token.encode())


def account(answer: AnswerReady, request: CheckedRequest) -> dict[str, Any]:
    """The ``kiki`` field: what the whole turn took, and with ``kiki.trace`` how it came to its answer."""
    spent = {"usage": usage(answer.usage)}
    return spent | _trace(answer) if request.trace else spent


def _trace(answer: AnswerReady) -> dict[str, Any]:
    """Times are milliseconds."""
    return {
        "turn_id": answer.envelope.turn_id,
        "session_id": answer.envelope.session_id,
        "level": answer.route.plan.level,
        "intent": answer.route.intent,
        "domains": [{"name": entry.name, "score": entry.score} for entry in answer.route.domains],
        "adapters": [{"name": entry.name, "weight": entry.weight} for entry in answer.route.adapters],
        "recalled": [hit.episode_id for hit in answer.recall.hits],
        "history": list(answer.recall.history),
        "cut": answer.inference.cut,
        "outcome": answer.negotiation.outcome,
        "deliberation": deliberation.summarise_deliberation(answer.inference, answer.negotiation),
        "bias": deliberation.summarise_bias_check(answer.bias),
        "stages": [_stage(timing) for timing in answer.timings],
    }


def _stage(timing: StageTiming) -> dict[str, Any]:
    return {
        "stage": timing.stage,
        "ms": round(timing.duration * 1000, 1),
        "compute_ms": round(timing.compute * 1000, 1),
        "attempt": timing.attempt,
    }


def _choice(
    index: int, candidate: Candidate, text: str, finish_reason: FinishReason, request: CheckedRequest
) -> Choice:
    return Choice(
        index=index,
        text=text,
        reasoning=candidate.reasoning if request.thinking else "",
        calls=candidate.tool_calls,
        tokens=candidate.tokens if request.query.sampling.logprobs else (),
        finish_reason=finish_reason,
    )
