"""An answer's output items and usage, as responses write them. Pure functions."""

from collections.abc import Collection, Sequence
from typing import Any, Literal

from runtime.facade.chat import response
from runtime.facade.chat.dialect import TextKind
from runtime.facade.chat.response import Choice
from runtime.facade.responses.items import describe_call
from schemas.chat import Usage
from schemas.errors import KikiError
from schemas.findings import FinishReason, LikelyToken, TokenLogprob

Status = Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]

_PREFIXES = {"reasoning": "rs", "message": "msg", "function_call": "fc", "custom_tool_call": "ctc"}
_CODES = {"context_length_exceeded": "context_length_exceeded", "queue_full": "rate_limit_exceeded"}
"""The error codes of responses for ours; any other fault is of the server or of the prompt."""


def describe_output(choice: Choice, *, turn_id: str, custom: Collection[str]) -> list[dict[str, Any]]:
    """All items of an answer. One that has neither text nor calls is an empty message."""
    items = [text_item("reasoning", choice.reasoning, (), "completed")] if choice.reasoning else []
    if choice.text or not choice.calls:
        items.append(text_item("content", choice.text, choice.tokens, status_of(choice.finish_reason)))
    items = [{"id": item_id(item["type"], turn_id), **item} for item in items]
    return [*items, *describe_calls(choice, turn_id=turn_id, custom=custom)]


def describe_calls(choice: Choice, *, turn_id: str, custom: Collection[str]) -> list[dict[str, Any]]:
    """The items of an answer's calls."""
    items = [describe_call(call, custom=custom) for call in choice.calls]
    return [{"id": item_id(item["type"], turn_id, number), **item} for number, item in enumerate(items)]


def text_item(kind: TextKind, text: str, tokens: Sequence[TokenLogprob], status: Status) -> dict[str, Any]:
    """A message or a reasoning item, without its id."""
    part = text_part(kind, text, tokens)
    if kind == "reasoning":
        return {"type": "reasoning", "status": status, "summary": [], "content": [part]}
    return {"type": "message", "status": status, "role": "assistant", "content": [part]}


def text_part(kind: TextKind, text: str, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """The content part of such an item."""
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": describe_tokens(tokens)}


def item_id(kind: str, turn_id: str, number: int = 0) -> str:
    """The id of an item of that type: a turn has one message and one reasoning at most, and its calls are numbered.
    :func:`turn_of` reads the turn from it."""
    return f"{_PREFIXES[kind]}_{turn_id}_{number}"


def turn_of(id_of_item: str) -> str:
    """The turn id that an item's id holds; any text where it is none of ours."""
    return id_of_item.partition("_")[2].rpartition("_")[0]


def describe_tokens(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Tokens with their log-probabilities."""
    return [_token(token) | {"top_logprobs": [_token(top) for top in token.top]} for token in tokens]


def describe_usage(counts: Usage) -> dict[str, Any]:
    """Tokens; which of them were cached, or reasoning, is not counted."""
    return {
        "input_tokens": counts.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": counts.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counts.total_tokens,
    }


def describe_failure(error: KikiError) -> dict[str, Any]:
    """The ``error`` of a failed response."""
    code = _CODES.get(error.code, "server_error" if error.status >= 500 else "invalid_prompt")
    return {"code": code, "message": error.message, "param": error.param}


def status_of(finish_reason: FinishReason) -> Status:
    """The status of an answer that ended so."""
    return "incomplete" if finish_reason == "length" else "completed"


def _token(token: LikelyToken) -> dict[str, Any]:
    return {"token": token.token, "bytes": response.bytes_of(token), "logprob": token.logprob}
