"""The messages of Anthropic's interface, whose content is blocks, as messages of a chat request.

A user's message may hold the results of tools beside its text. They become messages of their own, before the text:
they answer the assistant's message that stands before.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from runtime.facade.chat.fields import convert_body
from runtime.facade.chat.messages import SentMessage
from schemas.errors import InvalidInput

ROLES = ("user", "assistant", "system")
THOUGHTS = ("thinking", "redacted_thinking")
"""Blocks of an earlier answer's reasoning, which is not read again."""

ATTRIBUTION = "x-anthropic-billing-header"
"""How a system text begins that is meant for Anthropic's accounting. It differs from request to request, so that no
cached prompt would fit."""

Id = Annotated[str, Meta(min_length=1)]


class BlockMessage(Struct, frozen=True, kw_only=True):
    """One message as clients send it."""

    role: str
    content: str | list[dict[str, Any]]


class TextBlock(Struct, frozen=True, kw_only=True):
    """A block of text."""

    text: str


class ToolUseBlock(Struct, frozen=True, kw_only=True):
    """A call of an earlier answer, as the client sends it back."""

    id: Id
    name: Id
    input: dict[str, Any]


class ToolResultBlock(Struct, frozen=True, kw_only=True):
    """What a tool answered, or with ``is_error`` why it could not."""

    tool_use_id: Id
    content: str | list[dict[str, Any]] | None = None
    is_error: bool | None = None


def translate_messages(messages: Sequence[BlockMessage]) -> list[SentMessage]:
    """The conversation as messages of a chat request.

    Raises:
        InvalidInput: a role or a block is wrong or not served; ``param`` names it.
    """
    translation = _Translation()
    for index, message in enumerate(messages):
        translation.add(message, f"messages[{index}]")
    return translation.messages


def join_system(system: str | list[dict[str, Any]] | None) -> str | None:
    """The system text; its blocks are paragraphs.

    Raises:
        InvalidInput: a block is not text.
    """
    if system is None or isinstance(system, str):
        return system
    texts = [_read_text(block, f"system[{index}]") for index, block in enumerate(system)]
    return "\n\n".join(text for text in texts if not text.startswith(ATTRIBUTION))


class _Translation:
    """The messages so far, and the ids of the calls in them."""

    def __init__(self) -> None:
        self.messages: list[SentMessage] = []
        self._call_ids: set[str] = set()

    def add(self, message: BlockMessage, where: str) -> None:
        """Translate the next message, which stands at ``where``."""
        if message.role not in ROLES:
            raise InvalidInput(f"the role '{message.role}' is not one of {', '.join(ROLES)}.", param=f"{where}.role")
        if isinstance(message.content, str):
            self.messages.append(SentMessage(role=message.role, content=message.content))
            return
        texts: list[dict[str, Any]] = []
        calls: list[dict[str, Any]] = []
        results = 0
        for index, block in enumerate(message.content):
            place = f"{where}.content[{index}]"
            kind = block.get("type")
            if kind in THOUGHTS:
                continue
            if kind == "tool_use" and message.role == "assistant":
                calls.append(self._translate_call(block, place))
            elif kind == "tool_result" and message.role == "user":
                self.messages.append(self._translate_result(block, place))
                results += 1
            else:
                texts.append({"type": "text", "text": _read_text(block, place)})
        if texts or not results:
            self.messages.append(SentMessage(role=message.role, content=texts, tool_calls=calls or None))

    def _translate_call(self, block: dict[str, Any], where: str) -> dict[str, Any]:
        call = convert_body(block, ToolUseBlock, where=where)
        self._call_ids.add(call.id)
        return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.input}}

    def _translate_result(self, block: dict[str, Any], where: str) -> SentMessage:
        result = convert_body(block, ToolResultBlock, where=where)
        if result.tool_use_id not in self._call_ids:
            raise InvalidInput(
                f"no 'tool_use' block before it has the id '{result.tool_use_id}'.", param=f"{where}.tool_use_id"
            )
        content = result.content or ""
        if not isinstance(content, str):
            texts = [_read_text(part, f"{where}.content[{index}]") for index, part in enumerate(content)]
            content = "\n".join(texts)
        if result.is_error:
            content = f"The tool failed: {content}" if content else "The tool failed."
        return SentMessage(role="tool", content=content, tool_call_id=result.tool_use_id)


def _read_text(block: dict[str, Any], where: str) -> str:
    """The text of a block.

    Raises:
        InvalidInput: it is of another type.
    """
    kind = block.get("type", "text" if "text" in block else None)
    if kind != "text":
        raise InvalidInput(f"a block of type {kind!r} is not supported here: send text.", param=f"{where}.type")
    return convert_body(block, TextBlock, where=where).text
