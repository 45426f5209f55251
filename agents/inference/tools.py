"""Tool calls in decoded text: how this model writes them, and what they say.

A model whose chat template knows tools writes calls in its own form; mlx-lm has the parsers and chooses by template and
vocabulary. For any other model the tools are told in the system message, and it is asked for the form that many models
share: JSON between ``<tool_call>`` marks. A call that must come is decoded under a JSON Schema, as the whole answer.
"""

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agents.inference.text import Piece
from bus.metrics import degraded
from schemas.chat import Message, Tool, ToolCall, Tooling

Parser = Callable[[str, Any], Any]
"""Text of a call and the tools offered, to ``{"name": ..., "arguments": {...}}`` or a list of these."""


class Malformed(ValueError):
    """The text is no call of a tool that was offered."""


@dataclass(frozen=True, kw_only=True)
class ToolSyntax:
    """How calls are written: between ``start`` and ``end`` (empty: to the end of the answer), read by ``parse``.

    ``native``: the chat template tells the tools itself.
    """

    start: str
    end: str
    parse: Parser
    native: bool = True


def _json(text: str, _: Any) -> Any:
    return json.loads(text)


GENERIC = ToolSyntax(start="<tool_call>", end="</tool_call>", parse=_json, native=False)
_TOLD = (
    "You may call tools. Each is described by one JSON object a line:\n<tools>\n{tools}\n</tools>\n"
    "To call one, answer with a JSON object with its name and arguments between tool_call tags:\n"
    '<tool_call>\n{{"name": "...", "arguments": {{...}}}}\n</tool_call>'
)


def syntax_of(tokenizer: Any) -> ToolSyntax:
    """The syntax that mlx-lm found for its wrapped tokenizer, or the generic one."""
    if not tokenizer.has_tool_calling:
        return GENERIC
    return ToolSyntax(start=tokenizer.tool_call_start, end=tokenizer.tool_call_end, parse=tokenizer.tool_parser)


def described(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Tools as chat templates and parsers take them."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": json.loads(tool.parameters),
            },
        }
        for tool in tools
    ]


def read(text: str, syntax: ToolSyntax, tooling: Tooling) -> tuple[ToolCall, ...]:
    """The calls in the text between two marks.

    Raises:
        Malformed: it does not parse, or calls what was not offered.
    """
    try:
        found = syntax.parse(text.strip(), described(tooling.tools))
    except Exception as error:
        raise Malformed(f"{type(error).__name__}: {error}") from error
    calls = found if isinstance(found, list) else [found]
    if not calls:
        raise Malformed("no call")
    return tuple(_call(call, tooling) for call in calls)


def schema_of(tooling: Tooling) -> str:
    """The JSON Schema of one call of the forced tool, or of any."""
    wanted = [tool for tool in tooling.tools if tooling.forced in (None, tool.name)]
    return json.dumps({"anyOf": [_schema(tool) for tool in wanted]})


def told(messages: Sequence[Message], tooling: Tooling | None) -> list[Message]:
    """The conversation for a template that knows no tools: they are told, called and answered in plain text."""
    plain = [_plain(message) for message in messages]
    if tooling is None:
        return plain
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in described(tooling.tools))
    text = _TOLD.format(tools=lines)
    if plain and plain[0].role == "system":
        return [Message(role="system", content=f"{plain[0].content}\n\n{text}"), *plain[1:]]
    return [Message(role="system", content=text), *plain]


def arguments_of(call: ToolCall) -> Any:
    """The arguments as templates want them: an object, or the text if somebody sent back what is none."""
    try:
        return json.loads(call.arguments)
    except json.JSONDecodeError:
        return call.arguments


class Calls:
    """The calls of one candidate while it is decoded."""

    def __init__(self, syntax: ToolSyntax, tooling: Tooling) -> None:
        self._syntax = GENERIC if tooling.must_call else syntax
        self._tooling = tooling
        self.found: list[ToolCall] = []

    @property
    def marks(self) -> tuple[str, str] | None:
        """What begins and ends a call in the text; None if all of it is one."""
        return None if self._tooling.must_call else (self._syntax.start, self._syntax.end)

    @property
    def enough(self) -> bool:
        """Whether the reader takes no further one."""
        return bool(self.found) and not self._tooling.parallel

    def take(self, piece: Piece) -> Piece | None:
        """Take the text of a call; one that is malformed comes back as plain content, marks and all, and is counted."""
        try:
            self.found += read(piece.text, self._syntax, self._tooling)
        except Malformed as error:
            degraded("tools.malformed", f"what the model wrote is no call: {error}")
            start, end = self.marks or ("", "")
            return Piece("content", f"{start}{piece.text}{end if piece.closed else ''}")
        if not self._tooling.parallel:
            del self.found[1:]
        return None


def _plain(message: Message) -> Message:
    if message.role == "tool":
        return Message(role="user", content=f"<tool_response>\n{message.content}\n</tool_response>")
    if not message.tool_calls:
        return message
    calls = [{"name": call.name, "arguments": arguments_of(call)} for call in message.tool_calls]
    marked = [f"{GENERIC.start}\n{json.dumps(call, ensure_ascii=False)}\n{GENERIC.end}" for call in calls]
    return Message(role=message.role, content="\n".join([message.content, *marked] if message.content else marked))


def _schema(tool: Tool) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": json.loads(tool.parameters)},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _call(found: Any, tooling: Tooling) -> ToolCall:
    if not isinstance(found, dict) or not isinstance(found.get("arguments"), dict):
        raise Malformed("a call is an object with a name and an object of arguments")
    if found.get("name") not in {tool.name for tool in tooling.tools}:
        raise Malformed(f"no tool '{found.get('name')}' was offered")
    arguments = json.dumps(found["arguments"], ensure_ascii=False)
    return ToolCall(id=f"call_{uuid.uuid4().hex[:24]}", name=found["name"], arguments=arguments)
