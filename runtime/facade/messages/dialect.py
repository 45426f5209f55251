"""The answer as Anthropic's message, whole or as its events."""

from collections.abc import Sequence
from typing import Any

import msgspec

from runtime.facade.chat import response
from runtime.facade.chat.dialect import Beginning, TextKind, write_event
from runtime.facade.chat.request import CheckedRequest
from runtime.facade.chat.response import Choice
from runtime.facade.errors import describe_anthropic_error
from schemas.base import UNREADABLE
from schemas.chat import ToolCall, Usage
from schemas.envelope import Envelope
from schemas.errors import KikiError
from schemas.events import AnswerReady
from schemas.findings import FinishReason, TokenLogprob

STOP_REASONS: dict[FinishReason, str] = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
"""A stop string ends an answer as its own end does: the worker does not say which it was."""

_BLOCK_NAMES: dict[TextKind, str] = {"content": "text", "reasoning": "thinking"}
_EMPTY_BLOCKS: dict[str, dict[str, Any]] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}


class MessagesDialect:
    """:class:`runtime.facade.chat.dialect.Dialect` of Anthropic's messages. ``request_id`` names the HTTP request in
    an error."""

    def __init__(self, request: CheckedRequest, *, request_id: str = "") -> None:
        self._request = request
        self._request_id = request_id
        self._open: str | None = None
        self._index = 0

    def whole(self, answer: AnswerReady) -> dict[str, Any]:
        """A ``message``."""
        (choice,) = response.choices(answer, self._request)
        counts = response.own_usage(answer, self._request)
        message = _describe_message(answer.envelope, self._request, describe_blocks(choice), counts)
        return {**message, **_describe_end(choice), "kiki": response.account(answer, self._request)}

    def begin(self, beginning: Beginning) -> bytes:
        """The message without content."""
        counts = Usage(prompt_tokens=beginning.prompt_tokens)
        return _write("message_start", message=_describe_message(beginning.envelope, self._request, [], counts))

    def text(self, kind: TextKind, text: str, tokens: Sequence[TokenLogprob], index: int) -> bytes:  # noqa: ARG002
        """A piece of the block that is open, or of a new one. There is one choice, and no log-probabilities."""
        name = _BLOCK_NAMES[kind]
        data = b"" if self._open == name else self._open_block(name)
        return data + self._write_delta(f"{name}_delta", **{name: text})

    def finish(self, choice: Choice, answer: AnswerReady) -> bytes:
        """The calls, and why the answer ended."""
        data = b"" if choice.text or choice.calls else self._open_block("text")
        data += self._close_block()
        for call in choice.calls:
            data += self._write_start({**_describe_call(call), "input": {}})
            data += self._write_delta("input_json_delta", partial_json=call.arguments) + self._write_stop()
        usage = describe_usage(response.own_usage(answer, self._request))
        account = response.account(answer, self._request)
        return data + _write("message_delta", delta=_describe_end(choice), usage=usage, kiki=account)

    def end(self, answer: AnswerReady) -> bytes:  # noqa: ARG002 - the protocol's signature
        """The end of the stream."""
        return _write("message_stop")

    def fail(self, error: KikiError) -> bytes:
        """The error; nothing follows it."""
        return write_event("error", describe_anthropic_error(error, request_id=self._request_id))

    def _open_block(self, name: str) -> bytes:
        data = self._close_block()
        self._open = name
        return data + self._write_start(_EMPTY_BLOCKS[name])

    def _close_block(self) -> bytes:
        """End the block that is open, if there is one; clients expect a signature at the end of reasoning."""
        if self._open is None:
            return b""
        data = self._write_delta("signature_delta", signature="") if self._open == "thinking" else b""
        self._open = None
        return data + self._write_stop()

    def _write_start(self, block: dict[str, Any]) -> bytes:
        return _write("content_block_start", index=self._index, content_block=block)

    def _write_delta(self, kind: str, **fields: str) -> bytes:
        return _write("content_block_delta", index=self._index, delta={"type": kind, **fields})

    def _write_stop(self) -> bytes:
        self._index += 1
        return _write("content_block_stop", index=self._index - 1)


def describe_blocks(choice: Choice) -> list[dict[str, Any]]:
    """The content of an answer: its reasoning where that is shown, its text, and its calls."""
    thoughts = [{"type": "thinking", "thinking": choice.reasoning, "signature": ""}] if choice.reasoning else []
    texts = [{"type": "text", "text": choice.text}] if choice.text or not choice.calls else []
    return [*thoughts, *texts, *(_describe_call(call) for call in choice.calls)]


def describe_usage(counts: Usage) -> dict[str, int]:
    """Tokens as Anthropic counts them. How many of the prompt's were kept from earlier turns is not told."""
    return {
        "input_tokens": counts.prompt_tokens,
        "output_tokens": counts.completion_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }


def _describe_message(
    envelope: Envelope, request: CheckedRequest, content: list[dict[str, Any]], counts: Usage
) -> dict[str, Any]:
    """A message that has not ended."""
    return {
        "id": f"msg_{envelope.turn_id}",
        "type": "message",
        "role": "assistant",
        "model": request.query.model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": describe_usage(counts),
    }


def _describe_end(choice: Choice) -> dict[str, Any]:
    reason = "tool_use" if choice.calls else STOP_REASONS[choice.finish_reason]
    return {"stop_reason": reason, "stop_sequence": None}


def _describe_call(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": _read_input(call.arguments)}


def _read_input(arguments: str) -> dict[str, Any]:
    """The arguments of a call as the object that clients expect, even where the model wrote none."""
    try:
        value = msgspec.json.decode(arguments)
    except UNREADABLE:
        value = arguments
    return value if isinstance(value, dict) else {"input": value}


def _write(event: str, **fields: Any) -> bytes:
    return write_event(event, {"type": event, **fields})
