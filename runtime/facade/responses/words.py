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

_MESSAGE = re.compile(r"messages\[\d+\](\.tool_calls\[\d+\])?")
_HEAD = re.compile(r"^\w+")
_TOOL = re.compile(r"^(tools\[\d+\])\.(function|custom)\b")


def translate(error: E, places: Mapping[str, str] | None = None) -> E:
    """The error, whose ``param`` and message now name the fields of this interface.

    ``places`` says of which input each message of the chat request was made.
    """
    if error.param is not None:
        error.param = _translate_param(error.param, places or {})
    for name, own in NAMES.items():
        error.message = error.message.replace(f"'{name}'", f"'{own}'")
    return error


def _translate_param(param: str, places: Mapping[str, str]) -> str:
    if (message := _MESSAGE.match(param)) is not None:
        place = places.get(message[0], "input")
        rest = param[message.end() :]
        return place + rest if place.startswith("input[") else place
    param = _TOOL.sub(r"\1", param)
    return _HEAD.sub(lambda head: NAMES.get(head[0], head[0]), param)
