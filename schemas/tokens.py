"""Requests to the worker for the number of tokens of a prompt."""

from typing import Annotated

from msgspec import Meta

from schemas.base import Integer, WireStruct
from schemas.chat import Message, Tooling


class CountRequest(WireStruct, frozen=True, kw_only=True):
    """Count the tokens of a conversation as the model would read it: through its template, with the tools, and up to
    the answer. ``thinking`` is whether the model would reason first. It may be longer than the model's context."""

    messages: Annotated[tuple[Message, ...], Meta(min_length=1)]
    tooling: Tooling | None = None
    thinking: bool = False


class CountReply(WireStruct, frozen=True, kw_only=True):
    """How many tokens there are, by the worker's tokenizer."""

    tokens: Integer
