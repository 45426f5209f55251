"""Refusals of chat requests in the words of the responses' interface, whose fields have other names."""

import re
from collections.abc import Mapping
from typing import TypeVar

from schemas.errors import KikiError

E = TypeVar("E", bound=KikiError)

NAMES = {
    "logprobs": "include",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "system": "instructions",
}
"""The fields of a chat request that are called otherwise here."""

_HEAD = re.compile(r"^\w+")
_TOOL = re.compile(r"^(tools\[\d+\])\.(function|custom)\b")
_QUOTED = re.compile(r"'([a-z_]+[\w.\[\]]*)'")


def translate(error: E, places: Mapping[str, str] | None = None) -> E:
    """The error, whose ``param`` and message now name the fields of this interface.

    ``places`` says of which input the messages of the chat request, and parts of them, were made.
    """
    known = places or {}
    if error.param is not None:
        error.param = _translate_path(error.param, known)
    error.message = _QUOTED.sub(lambda name: f"'{_translate_path(name[1], known)}'", error.message)
    return error


def _translate_path(path: str, places: Mapping[str, str]) -> str:
    for place in sorted(places, key=len, reverse=True):
        if path == place or path.startswith((f"{place}.", f"{place}[")):
            return places[place] + path.removeprefix(place)
    if path.startswith("messages["):
        return NAMES["messages"]
    return _HEAD.sub(lambda head: NAMES.get(head[0], head[0]), _TOOL.sub(r"\1", path))
