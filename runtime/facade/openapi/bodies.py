"""The bodies' fields that have no type of their own in their structs: routes read them later, so that an error can name
the place, or refuse them."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from runtime.facade.chat.messages import SentMessage
from runtime.facade.chat.request import REFUSED, ChatRequest
from runtime.facade.chat.tools import EchoedCall, OfferedTool, ToolChoice
from runtime.facade.completions import request as completions
from runtime.facade.completions.request import CompletionRequest
from runtime.facade.messages import request as messages
from runtime.facade.messages.blocks import BlockMessage, TextBlock
from runtime.facade.messages.request import ClientTool, CountedMessages, MessagesRequest
from runtime.facade.responses import request as responses
from runtime.facade.responses.items import InputItem
from runtime.facade.responses.request import ResponseRequest
from runtime.facade.routes.embeddings import MAX_INPUTS, EmbeddingsBody


class ContentPart(Struct, frozen=True, kw_only=True):
    """A part of a message's content: a text, or reasoning that a client echoes."""

    type: Literal["text", "input_text", "output_text", "refusal", "thinking", "redacted_thinking", "reasoning"] = "text"
    text: str | UnsetType = UNSET
    refusal: str | UnsetType = UNSET


class ContentBlock(Struct, frozen=True, kw_only=True):
    """A block of a message: a text, reasoning that a client echoes, a call of an earlier answer, or its result."""

    type: Literal["text", "thinking", "redacted_thinking", "tool_use", "tool_result"] = "text"
    text: str | UnsetType = UNSET
    id: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    input: dict[str, Any] | UnsetType = UNSET
    tool_use_id: str | UnsetType = UNSET
    content: str | list[TextBlock] | UnsetType | None = UNSET
    is_error: bool | UnsetType | None = UNSET


FIELDS: dict[tuple[type[Struct], str], Any] = {
    (ChatRequest, "tools"): list[OfferedTool] | None,
    (ChatRequest, "tool_choice"): Literal["none", "auto", "required"] | ToolChoice | None,
    (SentMessage, "role"): Literal["system", "developer", "user", "assistant", "tool"],
    (SentMessage, "content"): str | list[ContentPart] | None,
    (SentMessage, "tool_calls"): list[EchoedCall] | None,
    (SentMessage, "audio"): None,
    (SentMessage, "function_call"): None,
    (ResponseRequest, "tool_choice"): Literal["none", "auto", "required"] | dict[str, Any] | None,
    (InputItem, "status"): str | None,
    (InputItem, "phase"): str | None,
    (InputItem, "summary"): list[dict[str, Any]] | None,
    (InputItem, "encrypted_content"): str | None,
    (CompletionRequest, "prompt"): str | Annotated[list[str | int | list[int]], Meta(min_length=1)],
    (EmbeddingsBody, "input"): str | Annotated[list[str], Meta(min_length=1, max_length=MAX_INPUTS)],
    (EmbeddingsBody, "user"): str | None,
    (BlockMessage, "role"): Literal["user", "assistant", "system"],
    (BlockMessage, "content"): str | list[ContentBlock],
    **{(struct, "system"): str | list[TextBlock] | None for struct in (CountedMessages, MessagesRequest)},
    **{(struct, "tools"): list[ClientTool] | None for struct in (CountedMessages, MessagesRequest)},
}
"""The types that fields are read as."""

UNSERVED: dict[tuple[type[Struct], str], tuple[Any, ...]] = {
    (struct, name): values
    for struct, table in (
        (ChatRequest, REFUSED),
        (ResponseRequest, responses.REFUSED),
        (CompletionRequest, completions.UNSERVED),
        (CountedMessages, messages.UNSERVED),
        (MessagesRequest, messages.UNSERVED),
    )
    for name, values in table.items()
}
"""Fields that are refused unless they have one of these values."""
