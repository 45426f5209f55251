"""OpenAI's shapes of an answer, whole and in chunks. Pure functions of the answer that the bus brought."""

from typing import Any

from runtime.facade.chat import tools
from runtime.facade.chat.request import CheckedRequest
from runtime.turns import deliberation
from schemas.chat import ToolCall, Usage
from schemas.envelope import Envelope
from schemas.events import AnswerReady
from schemas.findings import Candidate, FinishReason, LikelyToken, StageTiming

PIECE = 48
"""Characters of one chunk of text that is sent after it was decoded."""


def completion(answer: AnswerReady, request: CheckedRequest) -> dict[str, Any]:
    """The reply to a plain request."""
    reply: dict[str, Any] = {
        **_head(answer.envelope, request, "chat.completion"),
        "system_fingerprint": fingerprint(answer),
        "choices": [
            {
                "index": index,
                "message": _message(text, reasoning, calls(answer, request, index)),
                "logprobs": logprobs(answer, request, index),
                "finish_reason": finish,
            }
            for index, (text, reasoning, finish) in enumerate(choices(answer, request))
        ],
        "usage": usage(answer.usage),
    }
    return reply | ({"kiki": account(answer)} if request.trace else {})


def logprobs(answer: AnswerReady, request: CheckedRequest, index: int) -> dict[str, Any] | None:
    """Log-probabilities of choice ``index`` in OpenAI's shape; None when they were not requested."""
    if not request.query.sampling.logprobs:
        return None
    tokens = _candidate(answer, request, index).tokens
    content = [_token(token) | {"top_logprobs": [_token(top) for top in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def calls(answer: AnswerReady, request: CheckedRequest, index: int) -> tuple[ToolCall, ...]:
    """The tools that choice ``index`` calls."""
    return _candidate(answer, request, index).tool_calls


def _candidate(answer: AnswerReady, request: CheckedRequest, index: int) -> Candidate:
    """The candidate behind choice ``index``: that one of a raw turn with several choices, else the chosen one."""
    candidates = answer.inference.candidates
    return candidates[index if request.n > 1 else min(answer.negotiation.chosen, len(candidates) - 1)]


def _message(text: str, reasoning: str, tool_calls: tuple[ToolCall, ...]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if tool_calls else "")}
    if reasoning:
        message["reasoning"] = reasoning
    return message | ({"tool_calls": tools.wire_calls(tool_calls)} if tool_calls else {})


def _token(token: LikelyToken) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.token.encode())}


def chunk(
    envelope: Envelope,
    request: CheckedRequest,
    *,
    delta: dict[str, Any] | None,
    index: int = 0,
    finish_reason: FinishReason | None = None,
) -> dict[str, Any]:
    """One chunk of a streamed reply; ``delta`` None is the last chunk, which has no choice."""
    chunk_choices = [] if delta is None else [{"index": index, "delta": delta, "finish_reason": finish_reason}]
    body = {**_head(envelope, request, "chat.completion.chunk"), "choices": chunk_choices}
    return body | ({"usage": None} if request.include_usage else {})


def choices(answer: AnswerReady, request: CheckedRequest) -> list[tuple[str, str, FinishReason]]:
    """Text, reasoning and finish reason of each choice: the answer, or the ``n`` candidates of a raw turn.

    The reasoning is empty where it is not shown.
    """
    candidates = answer.inference.candidates
    if request.n > 1:
        all_choices = [
            (candidate.text, candidate.reasoning, candidate.finish_reason) for candidate in candidates[: request.n]
        ]
    else:
        winner = _candidate(answer, request, 0)
        all_choices = [(answer.text, winner.reasoning, answer.finish_reason)]
    return [(text, reasoning if request.thinking else "", finish) for text, reasoning, finish in all_choices]


def pieces(text: str, size: int = PIECE) -> list[str]:
    """``text`` cut into chunks."""
    return [text[start : start + size] for start in range(0, len(text), size)]


def usage(counts: Usage) -> dict[str, int]:
    """Tokens as OpenAI counts them."""
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.total_tokens,
    }


def fingerprint(answer: AnswerReady) -> str | None:
    """A name for the weights that answered; None when their digest is not known."""
    digest = answer.inference.model_digest
    return f"fp_{digest[:12]}" if digest else None


def account(answer: AnswerReady) -> dict[str, Any]:
    """The ``kiki`` field: how the turn came to its answer. Times are milliseconds."""
    plan = answer.route.plan
    return {
        "turn_id": answer.envelope.turn_id,
        "session_id": answer.envelope.session_id,
        "level": plan.level,
        "intent": answer.route.intent,
        "domains": [{"name": entry.name, "score": entry.score} for entry in answer.route.domains],
        "adapters": [{"name": entry.name, "weight": entry.weight} for entry in answer.route.adapters],
        "recalled": [hit.episode_id for hit in answer.recall.hits],
        "history": list(answer.recall.history),
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


def _head(envelope: Envelope, request: CheckedRequest, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{envelope.turn_id}",
        "object": kind,
        "created": int(envelope.created_at),
        "model": request.query.model,
    }
