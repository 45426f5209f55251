"""The messages of a chat request, from OpenAI's JSON to the structs of :mod:`schemas.chat`."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from runtime.facade.chat import tools
from schemas.chat import Message, Role
from schemas.errors import InvalidInput

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_ECHOED = ("audio", "function_call")
"""Fields of a message that carry an answer's content in a form that is not served; they must be empty."""

_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""The parts of a content that are text, each with its field."""

_THOUGHTS = ("thinking", "redacted_thinking", "reasoning")
"""Parts that clients echo of an earlier answer's reasoning, which is not read again."""


class SentMessage(Struct, frozen=True, kw_only=True):
    """One message as clients send it, with what they echo of an earlier answer."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    audio: Any = None
    function_call: Any = None
    refusal: str | None = None
    tool_calls: Any = None
    tool_call_id: str | None = None


def parse_messages(sent_messages: Sequence[SentMessage], *, system: str | None = None) -> tuple[Message, ...]:
    """The conversation; system texts at its beginning are one message, which ``system`` begins.

    Raises:
        InvalidInput: a message is wrong, or nothing can follow the last one; ``param`` names it.
    """
    messages = [_parse_message(message, f"messages[{index}]") for index, message in enumerate(sent_messages)]
    if not messages:
        raise InvalidInput("'messages' is empty: send at least one message.", param="messages")
    messages = _name_tool_answers(messages)
    if messages[-1].tool_calls:
        raise InvalidInput(
            "the last message calls tools: send their answers behind it.", param=f"messages[{len(messages) - 1}]"
        )
    heads = [system] if system else []
    while messages and messages[0].role == "system":
        heads.append(messages.pop(0).content)
    head = [Message(role="system", content="\n\n".join(heads))] if heads else []
    return (*head, *messages)


def parse_content(content: str | list[dict[str, Any]], where: str) -> str:
    """A message's text; the texts of several parts are joined by line ends.

    Raises:
        InvalidInput: a part is not text.
    """
    if isinstance(content, str):
        return content
    texts = (_parse_part(part, f"{where}[{index}]") for index, part in enumerate(content))
    return "\n".join(text for text in texts if text is not None)


def _parse_message(message: SentMessage, where: str) -> Message:
    role = _ROLES.get(message.role)
    if role is None:
        raise InvalidInput(f"the role '{message.role}' is not one of {', '.join(_ROLES)}.", param=f"{where}.role")
    for name in _ECHOED:
        if getattr(message, name):
            raise InvalidInput(f"'{name}' in a message is not supported: leave it out.", param=f"{where}.{name}")
    calls = tools.parse_echoed_calls(message.tool_calls, f"{where}.tool_calls")
    if calls and role != "assistant":
        raise InvalidInput("only an assistant's message calls tools.", param=f"{where}.tool_calls")
    if message.tool_call_id is not None and role != "tool":
        raise InvalidInput("only a tool's message answers a call.", param=f"{where}.tool_call_id")
    if message.content is None and role in ("system", "user"):
        raise InvalidInput("a message has no content: send text.", param=f"{where}.content")
    content = parse_content(message.content or message.refusal or "", f"{where}.content")
    return Message(role=role, content=content, name=message.name, tool_calls=calls, tool_call_id=message.tool_call_id)


def _name_tool_answers(messages: list[Message]) -> list[Message]:
    """The messages with each tool's answer named as its call, which must stand before it."""
    names: dict[str, str] = {}
    named_messages: list[Message] = []
    for index, message in enumerate(messages):
        names |= {call.id: call.name for call in message.tool_calls}
        if message.role == "tool":
            if message.tool_call_id not in names:
                raise InvalidInput(
                    "a tool's message answers a call of an assistant's message before it.",
                    param=f"messages[{index}].tool_call_id",
                )
            message = msgspec.structs.replace(message, name=names[message.tool_call_id])
        named_messages.append(message)
    return named_messages


def _parse_part(part: dict[str, Any], where: str) -> str | None:
    """The text of one part; None for an echoed thought."""
    kind = part.get("type", "text" if "text" in part else None)
    if kind in _THOUGHTS:
        return None
    field = _TEXTS.get(str(kind))
    if field is None:
        raise InvalidInput(f"content of type {kind!r} is not supported: send text parts only.", param=f"{where}.type")
    if not isinstance(part.get(field), str):
        raise InvalidInput(f"a part of type '{kind}' needs a string '{field}'.", param=f"{where}.{field}")
    return str(part[field])
