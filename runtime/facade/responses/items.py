"""The items of a conversation: a request's ``input`` made chat messages, and a turn's messages made items."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct

from runtime.facade.chat import tools
from runtime.facade.chat.messages import SentMessage
from schemas.chat import Message, ToolCall
from schemas.errors import InvalidInput

SERVED = "message, function_call, function_call_output, custom_tool_call, custom_tool_call_output and reasoning"
"""The items that a request may send; its references are resolved before."""


class InputItem(Struct, frozen=True, kw_only=True):
    """One item of ``input``, of any type; the last fields are what clients echo of an earlier answer."""

    type: str | None = None
    role: str | None = None
    content: str | list[dict[str, Any]] | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    input: str | None = None
    output: str | list[dict[str, Any]] | None = None
    status: Any = None
    phase: Any = None
    summary: Any = None
    encrypted_content: Any = None

    @property
    def kind(self) -> str | None:
        """The type, which may be left out of a message and of a reference."""
        if self.type is not None or self.role is not None:
            return self.type or "message"
        return "item_reference" if self.id is not None else None


@dataclass
class Transcript:
    """The chat messages of earlier turns, then those of an input.

    ``places`` says where each message of the input, or a part of it, was sent.
    """

    messages: list[SentMessage]
    places: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._earlier = len(self.messages)

    @property
    def has_input(self) -> bool:
        """Whether a message of the input is there."""
        return len(self.messages) > self._earlier

    def add(self, message: SentMessage, place: str, **fields: str) -> None:
        """Append a message of the input; ``fields`` are those that have another name there."""
        own_place = f"messages[{len(self.messages)}]"
        self.places[own_place] = place
        self.places |= {f"{own_place}.{field}": f"{place}.{name}" for field, name in fields.items()}
        self.messages.append(message)

    def add_call(self, call: dict[str, Any], place: str) -> None:
        """Append a call of the input; one that follows the assistant's message or call belongs to that message."""
        if not self.has_input or self.messages[-1].role != "assistant":
            self.add(SentMessage(role="assistant"), place)
        last = self.messages[-1]
        calls = [*(last.tool_calls or ()), call]
        self.places[f"messages[{len(self.messages) - 1}].tool_calls[{len(calls) - 1}]"] = place
        self.messages[-1] = SentMessage(role="assistant", content=last.content, tool_calls=calls)


def parse_items(earlier: Sequence[Message], items: str | Sequence[InputItem]) -> Transcript:
    """The messages of an ``earlier`` conversation and of the new input, as a chat request sends them.

    Raises:
        InvalidInput: an item is of a type that is not served, or lacks a field; ``param`` names it.
    """
    transcript = Transcript([_send_again(message) for message in earlier])
    if isinstance(items, str):
        transcript.add(SentMessage(role="user", content=items), "input")
        return transcript
    for index, item in enumerate(items):
        _add_item(transcript, item, f"input[{index}]")
    if not transcript.has_input:
        raise InvalidInput("'input' has no message: send a text, or items.", param="input")
    return transcript


def describe_messages(messages: Sequence[Message], *, turn_id: str, custom: Collection[str]) -> list[dict[str, Any]]:
    """The items from which a response was made. ``custom`` are the names of custom tools."""
    items = (item for message in messages for item in _describe_message(message, custom))
    return [{"id": f"in_{turn_id}_{index}", **item} for index, item in enumerate(items)]


def describe_call(call: ToolCall, *, custom: Collection[str]) -> dict[str, Any]:
    """A call as an item, without its id. ``custom`` are the names of custom tools."""
    if call.name in custom:
        fields = {"type": "custom_tool_call", "input": tools.text_of(call)}
    else:
        fields = {"type": "function_call", "arguments": call.arguments}
    return {**fields, "status": "completed", "call_id": call.id, "name": call.name}


def _add_item(transcript: Transcript, item: InputItem, place: str) -> None:
    match item.kind:
        case "message":
            role = _require(item, "role", place)
            transcript.add(SentMessage(role=role, content=_require(item, "content", place)), place)
        case "function_call":
            function = {"name": _require(item, "name", place), "arguments": item.arguments}
            call = {"id": _require(item, "call_id", place), "type": "function", "function": function}
            transcript.add_call(call, place)
        case "custom_tool_call":
            custom = {"name": _require(item, "name", place), "input": _require(item, "input", place)}
            call = {"id": _require(item, "call_id", place), "type": "custom", "custom": custom}
            transcript.add_call(call, place)
        case "function_call_output" | "custom_tool_call_output":
            call_id, output = _require(item, "call_id", place), _require(item, "output", place)
            answer = SentMessage(role="tool", content=output, tool_call_id=call_id)
            transcript.add(answer, place, content="output", tool_call_id="call_id")
        case "reasoning":
            pass  # it is not read again
        case kind:
            raise InvalidInput(f"an item of type {kind!r} is not served, but {SERVED}.", param=f"{place}.type")


def _require(item: InputItem, name: str, place: str) -> Any:
    value = getattr(item, name)
    if value is None:
        raise InvalidInput(f"an item of type '{item.kind}' needs its '{name}'.", param=f"{place}.{name}")
    return value


def _send_again(message: Message) -> SentMessage:
    calls = tools.describe_calls(message.tool_calls) or None
    return SentMessage(
        role=message.role,
        content=message.content,
        name=message.name,
        tool_calls=calls,
        tool_call_id=message.tool_call_id,
    )


def _describe_message(message: Message, custom: Collection[str]) -> Iterator[dict[str, Any]]:
    if message.role == "tool":
        kind = "custom_tool_call_output" if message.name in custom else "function_call_output"
        yield {"type": kind, "status": "completed", "call_id": message.tool_call_id, "output": message.content}
        return
    if message.content or not message.tool_calls:
        part: dict[str, Any] = {"type": "input_text", "text": message.content}
        if message.role == "assistant":
            part = {"type": "output_text", "text": message.content, "annotations": [], "logprobs": []}
        yield {"type": "message", "status": "completed", "role": message.role, "content": [part]}
    for call in message.tool_calls:
        yield describe_call(call, custom=custom)
