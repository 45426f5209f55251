"""OpenAI's shapes of an answer, whole and in chunks. Pure functions of the answer that the bus brought."""

from typing import Any

from runtime.facade.chat import tools
from runtime.facade.chat.request import Asked
from runtime.turns import deliberation
from schemas.chat import ToolCall, Usage
from schemas.envelope import Envelope
from schemas.events import AnswerReady
from schemas.findings import Candidate, FinishReason, LikelyToken, StageTiming

PIECE = 48
"""Characters of one chunk of an answer that is already there."""


def completion(answer: AnswerReady, asked: Asked) -> dict[str, Any]:
    """The reply to a plain request."""
    reply: dict[str, Any] = {
        **_head(answer.envelope, asked, "chat.completion"),
        "system_fingerprint": fingerprint(answer),
        "choices": [
            {
                "index": index,
                "message": _message(text, reasoning, calls(answer, asked, index)),
                "logprobs": logprobs(answer, asked, index),
                "finish_reason": finish,
            }
            for index, (text, reasoning, finish) in enumerate(choices(answer, asked))
        ],
        "usage": usage(answer.usage),
    }
    return reply | ({"kiki": account(answer)} if asked.trace else {})


def logprobs(answer: AnswerReady, asked: Asked, index: int) -> dict[str, Any] | None:
    """Tokens of choice ``index`` as OpenAI tells them; None when they were not asked for."""
    if not asked.query.sampling.logprobs:
        return None
    told = _candidate(answer, asked, index).tokens
    content = [_token(one) | {"top_logprobs": [_token(top) for top in one.top]} for one in told]
    return {"content": content, "refusal": None}


def calls(answer: AnswerReady, asked: Asked, index: int) -> tuple[ToolCall, ...]:
    """The tools that choice ``index`` calls."""
    return _candidate(answer, asked, index).tool_calls


def _candidate(answer: AnswerReady, asked: Asked, index: int) -> Candidate:
    candidates = answer.inference.candidates
    return candidates[index if asked.n > 1 else min(answer.negotiation.chosen, len(candidates) - 1)]


def _message(text: str, reasoning: str, called: tuple[ToolCall, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {"role": "assistant", "content": text or (None if called else "")}
    if reasoning:
        found["reasoning"] = reasoning
    return found | ({"tool_calls": tools.told(called)} if called else {})


def _token(one: LikelyToken) -> dict[str, Any]:
    return {"token": one.token, "logprob": one.logprob, "bytes": list(one.token.encode())}


def chunk(
    envelope: Envelope,
    asked: Asked,
    *,
    delta: dict[str, Any] | None,
    index: int = 0,
    finish_reason: FinishReason | None = None,
) -> dict[str, Any]:
    """One chunk of a streamed reply; ``delta`` None is the last chunk, which has no choice."""
    chosen = [] if delta is None else [{"index": index, "delta": delta, "finish_reason": finish_reason}]
    body = {**_head(envelope, asked, "chat.completion.chunk"), "choices": chosen}
    return body | ({"usage": None} if asked.include_usage else {})


def choices(answer: AnswerReady, asked: Asked) -> list[tuple[str, str, FinishReason]]:
    """Text, reasoning and finish reason of each choice: the answer, or the ``n`` candidates of a raw turn.

    The reasoning is empty where it is not shown.
    """
    candidates = answer.inference.candidates
    if asked.n > 1:
        found = [(one.text, one.reasoning, one.finish_reason) for one in candidates[: asked.n]]
    else:
        chosen = candidates[min(answer.negotiation.chosen, len(candidates) - 1)]
        found = [(answer.text, chosen.reasoning, answer.finish_reason)]
    return [(text, reasoning if asked.thinking else "", finish) for text, reasoning, finish in found]


def pieces(text: str, size: int = PIECE) -> list[str]:
    """``text`` cut into chunks."""
    return [text[start : start + size] for start in range(0, len(text), size)]


def usage(counted: Usage) -> dict[str, int]:
    """Tokens as OpenAI counts them."""
    return {
        "prompt_tokens": counted.prompt_tokens,
        "completion_tokens": counted.completion_tokens,
        "total_tokens": counted.total_tokens,
    }


def fingerprint(answer: AnswerReady) -> str | None:
    """Names the weights that spoke."""
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
        "domains": [{"name": one.name, "score": one.score} for one in answer.route.domains],
        "adapters": [{"name": one.name, "weight": one.weight} for one in answer.route.adapters],
        "recalled": [hit.episode_id for hit in answer.recall.hits],
        "outcome": answer.negotiation.outcome,
        "deliberation": deliberation.summary(answer.inference, answer.negotiation),
        "bias": deliberation.checked(answer.bias),
        "stages": [_stage(timing) for timing in answer.timings],
    }


def _stage(timing: StageTiming) -> dict[str, Any]:
    return {
        "stage": timing.stage,
        "ms": round(timing.duration * 1000, 1),
        "compute_ms": round(timing.compute * 1000, 1),
        "attempt": timing.attempt,
    }


def _head(envelope: Envelope, asked: Asked, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{envelope.turn_id}",
        "object": kind,
        "created": int(envelope.created_at),
        "model": asked.query.model,
    }
