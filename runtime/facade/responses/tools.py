"""Tools as this interface sends them, flat, and as a chat request has them."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from schemas.errors import InvalidInput


class FlatTool(Struct, frozen=True, kw_only=True):
    """One of ``tools``. A call always follows the parameters, so ``strict`` changes nothing."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    format: dict[str, Any] | None = None


def nest_tools(flat_tools: Sequence[FlatTool]) -> list[dict[str, Any]]:
    """The tools of a chat request.

    Raises:
        InvalidInput: a tool is built in, or has no name; ``param`` names it.
    """
    return [_nest_tool(tool, f"tools[{index}]") for index, tool in enumerate(flat_tools)]


def nest_choice(choice: Any) -> Any:
    """The ``tool_choice`` of a chat request."""
    if not isinstance(choice, dict) or "type" not in choice:
        return choice
    kind = choice["type"]
    return {"type": kind, str(kind): {name: value for name, value in choice.items() if name != "type"}}


def describe_tools(flat_tools: Sequence[FlatTool]) -> list[dict[str, Any]]:
    """The tools as a response repeats them."""
    return [_describe_tool(tool) for tool in flat_tools]


def _nest_tool(tool: FlatTool, where: str) -> dict[str, Any]:
    if tool.type not in ("function", "custom"):
        raise InvalidInput(
            f"tools of type '{tool.type}' are not served: offer functions, or custom tools.", param=f"{where}.type"
        )
    if tool.name is None:
        raise InvalidInput("a tool needs its 'name'.", param=f"{where}.name")
    own = {"parameters": tool.parameters} if tool.type == "function" else {"format": tool.format}
    return {"type": tool.type, tool.type: {"name": tool.name, "description": tool.description, **own}}


def _describe_tool(tool: FlatTool) -> dict[str, Any]:
    head = {"type": tool.type, "name": tool.name, "description": tool.description}
    if tool.type == "custom":
        return head | {"format": tool.format or {"type": "text"}}
    return head | {"parameters": tool.parameters, "strict": tool.strict is not False}
