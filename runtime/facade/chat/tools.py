"""Tools and their calls: from OpenAI's JSON to the structs of :mod:`schemas.chat`, and back.

A custom tool takes a text. The model knows it as a function whose one argument, ``input``, is that text.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from runtime.facade.chat.fields import convert_body
from schemas.base import UNREADABLE
from schemas.chat import Tool, ToolCall, Tooling
from schemas.errors import InvalidInput

S = TypeVar("S", bound=Struct)
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
CUSTOM_PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
CHOICES = "none, auto, required, or an object that names a function"
"""What ``tool_choice`` may be."""


class FunctionSpec(Struct, frozen=True, kw_only=True):
    """A function's name and parameters; a call that is required follows their schema, whatever ``strict`` says."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class CustomSpec(Struct, frozen=True, kw_only=True):
    """A custom tool's name, and the format of its text."""

    name: str
    description: str | None = None
    format: dict[str, Any] | None = None


class OfferedTool(Struct, frozen=True, kw_only=True):
    """One of ``tools``."""

    type: Literal["function", "custom"]
    function: FunctionSpec | None = None
    custom: CustomSpec | None = None


class NamedTool(Struct, frozen=True, kw_only=True):
    """The name of a tool in ``tool_choice``."""

    name: str


class AllowedTools(Struct, frozen=True, kw_only=True):
    """The tools of which ``tool_choice`` allows a call, and whether one must be made."""

    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]]


class ToolChoice(Struct, frozen=True, kw_only=True):
    """``tool_choice`` that names a tool, or several."""

    type: Literal["function", "custom", "allowed_tools"]
    function: NamedTool | None = None
    custom: NamedTool | None = None
    allowed_tools: AllowedTools | None = None


class FunctionCall(Struct, frozen=True, kw_only=True):
    """A function's name and arguments in an echoed call; some clients send the arguments as an object."""

    name: str
    arguments: str | dict[str, Any] | None = None


class CustomCall(Struct, frozen=True, kw_only=True):
    """A custom tool's name and text in an echoed call."""

    name: str
    input: str


class EchoedCall(Struct, frozen=True, kw_only=True):
    """A call of an earlier answer, as the client sends it back."""

    id: str
    type: Literal["function", "custom"] = "function"
    function: FunctionCall | None = None
    custom: CustomCall | None = None


@dataclass(frozen=True, kw_only=True)
class OfferedTools:
    """The tools that an answer may call (None: none), and the names of those that are custom."""

    tooling: Tooling | None
    custom: frozenset[str] = frozenset()


def parse_tools(raw_tools: Any, choice: Any, *, parallel: bool | None) -> OfferedTools:
    """The tools of a request.

    Raises:
        InvalidInput: a tool or the choice is wrong; ``param`` names it.
    """
    offers = [
        convert_body(item, OfferedTool, where=f"tools[{index}]") for index, item in enumerate(_require_list(raw_tools))
    ]
    tools = [_convert_offer(offer, f"tools[{index}]") for index, offer in enumerate(offers)]
    names = [tool.name for tool in tools]
    if duplicate := next((name for name in names if names.count(name) > 1), None):
        raise InvalidInput(f"two tools are called '{duplicate}': give each its own name.", param="tools")
    mode, chosen = _parse_choice(choice)
    for name in chosen:
        if name not in names:
            raise InvalidInput(f"'tool_choice' names '{name}', which is not among the tools.", param="tool_choice")
    if mode in ("required", "forced") and not tools:
        raise InvalidInput("'tool_choice' asks for a call, but there are no 'tools'.", param="tool_choice")
    allowed = [tool for tool in tools if mode == "forced" or not chosen or tool.name in chosen]
    if not allowed or mode == "none":
        return OfferedTools(tooling=None)
    fields = {
        "tools": allowed,
        "required": mode == "required",
        "forced": chosen[0] if mode == "forced" else None,
        # An answer that must call goes on calling where it may, so there it may only for who asks for that.
        "parallel": bool(parallel) if mode in ("required", "forced") else parallel is not False,
    }
    custom = frozenset(tool.name for tool, offer in zip(tools, offers, strict=True) if offer.type == "custom")
    return OfferedTools(tooling=_convert_wire(fields, Tooling, "tools"), custom=custom)


def parse_echoed_calls(calls: Any, where: str) -> tuple[ToolCall, ...]:
    """The calls that an assistant's message carries.

    Raises:
        InvalidInput: one of them is wrong.
    """
    places = [(f"{where}[{index}]", call) for index, call in enumerate(_require_list(calls, where))]
    return tuple(_convert_call(convert_body(call, EchoedCall, where=place), place) for place, call in places)


def describe_calls(
    calls: Sequence[ToolCall], *, custom: Collection[str] = (), streamed: bool = False
) -> list[dict[str, Any]]:
    """Calls as clients read them; a stream's carry their index. ``custom`` are the names of custom tools."""
    return [
        {**({"index": index} if streamed else {}), "id": call.id, **_describe_call(call, is_custom=call.name in custom)}
        for index, call in enumerate(calls)
    ]


def text_of(call: ToolCall) -> str:
    """The text that a call of a custom tool carries."""
    try:
        arguments = msgspec.json.decode(call.arguments)
    except UNREADABLE:
        return call.arguments
    return str(arguments.get("input", "")) if isinstance(arguments, dict) else call.arguments


def _describe_call(call: ToolCall, *, is_custom: bool) -> dict[str, Any]:
    if is_custom:
        return {"type": "custom", "custom": {"name": call.name, "input": text_of(call)}}
    return {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _parse_choice(choice: Any) -> tuple[str, tuple[str, ...]]:
    """The mode (none, auto, required, forced) and the tools that the choice names."""
    if choice is None:
        return "auto", ()
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise InvalidInput(f"'tool_choice' is '{choice}'; it may be {CHOICES}.", param="tool_choice")
        return choice, ()
    if not isinstance(choice, dict):
        raise InvalidInput(f"'tool_choice' may be {CHOICES}.", param="tool_choice")
    named = convert_body(choice, ToolChoice, where="tool_choice")
    if named.type == "allowed_tools" and named.allowed_tools is not None:
        return named.allowed_tools.mode, tuple(_name_of(tool) for tool in named.allowed_tools.tools)
    tool = named.custom if named.type == "custom" else named.function
    if tool is None:
        raise InvalidInput(f"'tool_choice' needs its '{named.type}'.", param=f"tool_choice.{named.type}")
    return "forced", (tool.name,)


def _name_of(tool: dict[str, Any]) -> str:
    """The name of one of the allowed tools."""
    holder = tool.get(str(tool.get("type")), tool)
    return str(holder.get("name")) if isinstance(holder, dict) else ""


def _convert_offer(offer: OfferedTool, where: str) -> Tool:
    if offer.type == "custom":
        return _convert_custom_tool(offer.custom, where)
    function = offer.function
    if function is None:
        raise InvalidInput("a tool of type 'function' needs its 'function'.", param=f"{where}.function")
    fields = {
        "name": function.name,
        "description": function.description or "",
        "parameters": msgspec.json.encode(function.parameters or NO_PARAMETERS).decode(),
    }
    return _convert_wire(fields, Tool, f"{where}.function")


def _convert_custom_tool(spec: CustomSpec | None, where: str) -> Tool:
    if spec is None:
        raise InvalidInput("a tool of type 'custom' needs its 'custom'.", param=f"{where}.custom")
    if (spec.format or {}).get("type", "text") != "text":
        raise InvalidInput(
            "a custom tool's 'format' may be text; grammars are not supported.", param=f"{where}.custom.format"
        )
    parameters = msgspec.json.encode(CUSTOM_PARAMETERS).decode()
    fields = {"name": spec.name, "description": spec.description or "", "parameters": parameters}
    return _convert_wire(fields, Tool, f"{where}.custom")


def _convert_call(call: EchoedCall, where: str) -> ToolCall:
    if call.type == "custom" and call.custom is not None:
        arguments = msgspec.json.encode({"input": call.custom.input}).decode()
        fields = {"id": call.id, "name": call.custom.name, "arguments": arguments}
    elif call.function is not None:
        sent = call.function.arguments
        arguments = msgspec.json.encode(sent).decode() if isinstance(sent, dict) else sent or ""
        fields = {"id": call.id, "name": call.function.name, "arguments": arguments}
    else:
        raise InvalidInput(f"a call of type '{call.type}' needs its '{call.type}'.", param=f"{where}.{call.type}")
    return _convert_wire(fields, ToolCall, where)


def _require_list(value: Any, where: str = "tools") -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidInput(f"'{where}' must be a list.", param=where)
    return value


def _convert_wire(fields: Any, kind: type[S], where: str) -> S:
    """``fields`` as a struct of the wire, whose bounds are checked here."""
    return convert_body(msgspec.to_builtins(fields), kind, where=where)
