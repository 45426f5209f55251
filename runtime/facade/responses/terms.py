"""What a response says of its request, kept with the turn so that the response can be written again."""

from typing import Any

import msgspec
from msgspec import Struct

from schemas.base import UNREADABLE
from schemas.findings import Query


class Terms(Struct, frozen=True, kw_only=True):
    """``fields`` are those that a response repeats of its request; ``thinking`` is whether it shows the reasoning."""

    thinking: bool
    fields: dict[str, Any]

    @property
    def model(self) -> str:
        """The model id that answered."""
        return str(self.fields["model"])

    @property
    def instructions(self) -> str:
        """The request's instructions, with which the messages begin; they are not carried over to the next turn."""
        return str(self.fields.get("instructions") or "")

    @property
    def custom_tools(self) -> frozenset[str]:
        """The names of the tools whose calls carry a text."""
        return frozenset(str(tool["name"]) for tool in self.fields.get("tools", ()) if tool["type"] == "custom")


def keep_terms(query: Query, terms: Terms) -> Query:
    """The query with the terms in it."""
    return msgspec.structs.replace(query, request=msgspec.json.encode(terms).decode())


def read_terms(text: str) -> Terms | None:
    """The terms that a turn holds; None of one that was not asked for as a response."""
    try:
        return msgspec.json.decode(text, type=Terms)
    except UNREADABLE:
        return None
