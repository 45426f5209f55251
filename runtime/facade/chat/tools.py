"""Tools and their calls: from OpenAI's JSON to the structs of :mod:`schemas.chat`, and back."""

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from schemas.chat import Tool, ToolCall, Tooling
from schemas.codec import field_of
from schemas.errors import InvalidInput

S = TypeVar("S", bound=Struct)
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


class FunctionSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool's name and parameters; a call that is required follows their schema, whatever ``strict`` says."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class OfferedTool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of ``tools``."""

    type: Literal["function"]
    function: FunctionSpec


class _FunctionName(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str


class ForcedTool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``tool_choice`` that names a tool."""

    type: Literal["function"]
    function: _FunctionName


class _FunctionCall(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    arguments: str


class EchoedCall(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call of an earlier answer, as the client sends it back."""

    id: str
    function: _FunctionCall
    type: Literal["function"] = "function"
    index: int | None = None


def parse_tooling(raw_tools: Any, choice: Any, *, parallel: bool | None) -> Tooling | None:
    """The tools of a request; None when there are none, or none may be called.

    Raises:
        InvalidInput: a tool or the choice is wrong; ``param`` names it.
    """
    tools = tuple(_parse_tool(item, f"tools[{index}]") for index, item in enumerate(_require_list(raw_tools)))
    names = [tool.name for tool in tools]
    if duplicate := next((name for name in names if names.count(name) > 1), None):
        raise InvalidInput(f"two tools are called '{duplicate}': give each its own name.", param="tools")
    forced_name = None
    if choice not in (None, "none", "auto", "required"):
        forced_name = _convert(choice, ForcedTool, "tool_choice").function.name
    if (forced_name or choice == "required") and not tools:
        raise InvalidInput("'tool_choice' asks for a call, but there are no 'tools'.", param="tool_choice")
    if forced_name is not None and forced_name not in names:
        raise InvalidInput(f"'tool_choice' names '{forced_name}', which is not among the tools.", param="tool_choice")
    if not tools or choice == "none":
        return None
    fields = {
        "tools": tools,
        "required": choice == "required",
        "forced": forced_name,
        "parallel": parallel is not False,
    }
    return _convert(fields, Tooling, "tools")


def parse_echoed_calls(calls: Any, where: str) -> tuple[ToolCall, ...]:
    """The calls that an assistant's message carries.

    Raises:
        InvalidInput: one of them is wrong.
    """
    echoed_calls = [
        _convert(call, EchoedCall, f"{where}[{index}]") for index, call in enumerate(_require_list(calls, where))
    ]
    plain = [{"id": call.id, "name": call.function.name, "arguments": call.function.arguments} for call in echoed_calls]
    return tuple(_convert(call, ToolCall, f"{where}[{index}]") for index, call in enumerate(plain))


def wire_calls(calls: Sequence[ToolCall], *, streamed: bool = False) -> list[dict[str, Any]]:
    """Calls as clients read them; a stream's carry their index."""
    return [
        {
            **({"index": index} if streamed else {}),
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for index, call in enumerate(calls)
    ]


def _parse_tool(offer: Any, where: str) -> Tool:
    function = _convert(offer, OfferedTool, where).function
    fields = {
        "name": function.name,
        "description": function.description or "",
        "parameters": msgspec.json.encode(function.parameters or NO_PARAMETERS).decode(),
    }
    return _convert(fields, Tool, f"{where}.function")


def _require_list(value: Any, where: str = "tools") -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidInput(f"'{where}' must be a list.", param=where)
    return value


def _convert(value: Any, kind: type[S], where: str) -> S:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        field = field_of(str(error))
        raise InvalidInput(f"'{where}' is refused: {error}.", param=f"{where}.{field}" if field else where) from error
