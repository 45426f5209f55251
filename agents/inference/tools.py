"""Reads tool calls in decoded text, and describes tools to models that do not know them.

A model whose chat template knows tools writes calls in its own form; mlx-lm has the parsers and chooses by template and
vocabulary. For any other model the system message describes the tools and asks for the form that many models
share: JSON between ``<tool_call>`` marks. When a call is required, the whole answer is decoded under the call's JSON
Schema.

Small models often leave the marks out. An answer that begins with the JSON of a call, bare or in a fence, is held back
until it ends, and is a call when it names an offered tool.
"""

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agents.inference.text import Piece
from bus.metrics import count_degraded
from schemas.chat import Message, Tool, ToolCall, Tooling

Parser = Callable[[str, Any], Any]
"""Text of a call and the tools offered, to ``{"name": ..., "arguments": {...}}`` or a list of these."""


class MalformedCall(ValueError):
    """The text is not a call of an offered tool."""


@dataclass(frozen=True, kw_only=True)
class ToolSyntax:
    """How calls are written: between ``start`` and ``end`` (empty: to the end of the answer), read by ``parse``.

    ``native``: the chat template describes the tools itself.
    """

    start: str
    end: str
    parse: Parser
    native: bool = True


def _parse_json(text: str, _: Any) -> Any:
    return json.loads(text)


GENERIC = ToolSyntax(start="<tool_call>", end="</tool_call>", parse=_parse_json, native=False)
_TOOLS_TEMPLATE = (
    "You may call tools. Each is described by one JSON object a line:\n<tools>\n{tools}\n</tools>\n"
    "To call one, answer with a JSON object with its name and arguments between tool_call tags:\n"
    '<tool_call>\n{{"name": "...", "arguments": {{...}}}}\n</tool_call>'
)


_UNMARKED = ('{"name":', '```json{"name":', '```{"name":')
"""How an answer begins that is a call without its marks; blanks are left out."""


def syntax_of(tokenizer: Any) -> ToolSyntax:
    """The syntax that mlx-lm found for its wrapped tokenizer, or the generic one."""
    if not tokenizer.has_tool_calling:
        return GENERIC
    return ToolSyntax(start=tokenizer.tool_call_start, end=tokenizer.tool_call_end, parse=tokenizer.tool_parser)


def describe_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
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


def read_calls(text: str, syntax: ToolSyntax, tooling: Tooling) -> tuple[ToolCall, ...]:
    """The calls in the text between two marks.

    Raises:
        MalformedCall: the text does not parse, or calls a tool that was not offered.
    """
    try:
        result = syntax.parse(text.strip(), describe_tools(tooling.tools))
    except Exception as error:
        raise MalformedCall(f"{type(error).__name__}: {error}") from error
    calls = result if isinstance(result, list) else [result]
    if not calls:
        raise MalformedCall("no call")
    return tuple(_make_call(call, tooling) for call in calls)


def may_begin_call(text: str) -> bool:
    """Whether an answer that begins with ``text`` may be a call without its marks."""
    compact = "".join(text.split())
    return any(compact[: len(opening)] == opening[: len(compact)] for opening in _UNMARKED)


def read_unmarked_call(text: str, tooling: Tooling) -> tuple[ToolCall, str]:
    """The call whose JSON a text begins with, bare or in a fence, and the text behind it.

    Raises:
        MalformedCall: the text does not begin with a call of an offered tool.
    """
    try:
        raw, end = json.JSONDecoder().raw_decode(text, text.index("{"))
    except (ValueError, RecursionError) as error:
        raise MalformedCall(f"{type(error).__name__}: {error}") from error
    return _make_call(raw, tooling), text[end:].strip().removeprefix("```").strip()


def schema_of(tooling: Tooling) -> str:
    """The JSON Schema of one call of the forced tool, or of any."""
    tools = [tool for tool in tooling.tools if tooling.forced in (None, tool.name)]
    return json.dumps({"anyOf": [_schema(tool) for tool in tools]})


def spell_out_tools(messages: Sequence[Message], tooling: Tooling | None) -> list[Message]:
    """The conversation for a template that knows no tools: tools are described, called and answered in plain text."""
    plain = [_as_plain_message(message) for message in messages]
    if tooling is None:
        return plain
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in describe_tools(tooling.tools))
    text = _TOOLS_TEMPLATE.format(tools=lines)
    if plain and plain[0].role == "system":
        return [Message(role="system", content=f"{plain[0].content}\n\n{text}"), *plain[1:]]
    return [Message(role="system", content=text), *plain]


def arguments_of(call: ToolCall) -> Any:
    """The arguments as templates want them: an object, or the plain text when the client sent back something else."""
    try:
        return json.loads(call.arguments)
    except (json.JSONDecodeError, RecursionError):
        return call.arguments


class CallCollector:
    """The calls of one candidate while it is decoded."""

    def __init__(self, syntax: ToolSyntax, tooling: Tooling) -> None:
        self._syntax = GENERIC if tooling.must_call else syntax
        self._tooling = tooling
        self._held = ""
        self._is_prose = False
        self.tool_calls: list[ToolCall] = []

    @property
    def marks(self) -> tuple[str, str] | None:
        """The marks at the beginning and end of a call; None when the whole text is one call."""
        return None if self._tooling.must_call else (self._syntax.start, self._syntax.end)

    @property
    def is_complete(self) -> bool:
        """Whether no further call is accepted."""
        return bool(self.tool_calls) and not self._tooling.parallel

    def take(self, piece: Piece) -> Piece | None:
        """Read the text of a call. A malformed one is counted and returned as plain content with its marks."""
        try:
            self.tool_calls += read_calls(piece.text, self._syntax, self._tooling)
        except MalformedCall as error:
            count_degraded("tools.malformed", f"what the model wrote is not a call: {error}")
            start, end = self.marks or ("", "")
            return Piece("content", f"{start}{piece.text}{end if piece.closed else ''}")
        if not self._tooling.parallel:
            del self.tool_calls[1:]
        return None

    def take_content(self, text: str) -> str:
        """Take text of the answer; return what cannot be a call without its marks any more."""
        if self._is_prose:
            return text
        self._held += text
        if may_begin_call(self._held):
            return ""
        self._is_prose = True
        return self._release()

    def finish(self) -> str:
        """The answer has ended: return what was held back and is no call."""
        text = self._release()
        if self.tool_calls or self._is_prose:
            return text
        try:
            call, rest = read_unmarked_call(text, self._tooling)
        except MalformedCall:
            return text
        self.tool_calls.append(call)
        return rest

    def _release(self) -> str:
        text, self._held = self._held, ""
        return text


def _as_plain_message(message: Message) -> Message:
    if message.role == "tool":
        return Message(role="user", content=f"<tool_response>\n{message.content}\n</tool_response>")
    if not message.tool_calls:
        return message
    calls = [{"name": call.name, "arguments": arguments_of(call)} for call in message.tool_calls]
    call_texts = [f"{GENERIC.start}\n{json.dumps(call, ensure_ascii=False)}\n{GENERIC.end}" for call in calls]
    return Message(
        role=message.role, content="\n".join([message.content, *call_texts] if message.content else call_texts)
    )


def _schema(tool: Tool) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": json.loads(tool.parameters)},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _make_call(raw: Any, tooling: Tooling) -> ToolCall:
    if not isinstance(raw, dict) or not isinstance(raw.get("arguments"), dict):
        raise MalformedCall("a call is an object with a name and an object of arguments")
    if raw.get("name") not in {tool.name for tool in tooling.tools}:
        raise MalformedCall(f"no tool '{raw.get('name')}' was offered")
    arguments = json.dumps(raw["arguments"], ensure_ascii=False)
    return ToolCall(id=f"call_{uuid.uuid4().hex[:24]}", name=raw["name"], arguments=arguments)
