"""Reads tool calls in decoded text, and describes tools to models that do not know them.

A model whose chat template knows tools writes calls in its own form; mlx-lm has the parsers and chooses by template and
vocabulary. For any other model the system message describes the tools and asks for the form that many models
share: JSON between ``<tool_call>`` marks. When a call is required, the whole answer is decoded under a grammar: one
call, or where several are allowed one on each line.

Small models often leave the marks out. An answer that begins with the JSON of calls, bare, in a list or in a fence, is
held back until it ends, and is a call when it names an offered tool. A call that the token budget cuts off is no text.
"""

import contextlib
import itertools
import json
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agents.inference.text import Piece
from bus.metrics import count_degraded
from schemas.chat import Message, Tool, ToolCall, Tooling
from schemas.errors import InvalidInput

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
    values, end = _read_values(text, 0)
    if text[end:].strip() or not values:
        raise MalformedCall("the text is no JSON")
    return values[0] if len(values) == 1 else values


GENERIC = ToolSyntax(start="<tool_call>", end="</tool_call>", parse=_parse_json, native=False)
_TOOLS_TEMPLATE = (
    "You may call tools. Each is described by one JSON object a line:\n<tools>\n{tools}\n</tools>\n"
    "To call one, answer with a JSON object with its name and arguments between tool_call tags:\n"
    '<tool_call>\n{{"name": "...", "arguments": {{...}}}}\n</tool_call>'
)


_FENCES = ("", "```json", "```")
_OPENING = re.compile(r"\s*(?:```(?:json)?)?\s*\[?\s*")
_SEPARATOR = re.compile(r"[\s,;]*")
_CLOSING = re.compile(r"\s*\]?\s*(?:```)?\s*")
_DEEPEST = 100
"""How deep JSON may be nested that a template is to show."""


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


def callable_tools(tooling: Tooling) -> list[Tool]:
    """The tools that a required call may call: the forced one, or any."""
    return [tool for tool in tooling.tools if tooling.forced in (None, tool.name)]


def check_tools(tools: Sequence[Tool]) -> None:
    """Refuse tools whose parameters cannot be shown to a model.

    Raises:
        InvalidInput: they are no JSON, or nested too deeply; the text names the tool.
    """
    for tool in tools:
        try:
            parameters = json.loads(tool.parameters)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"the parameters of '{tool.name}' are no JSON: {error}.", param="tools") from error
        if not _is_shallow(parameters):
            raise InvalidInput(f"the parameters of '{tool.name}' are nested too deeply.", param="tools")


def may_begin_call(text: str, tooling: Tooling) -> bool:
    """Whether an answer that begins with ``text`` may be a call without its marks."""
    compact = "".join(text.split())
    return any(compact[: len(opening)] == opening[: len(compact)] for opening in _openings_without_marks(tooling))


def read_unmarked_calls(text: str, tooling: Tooling) -> tuple[list[ToolCall], str]:
    """The calls whose JSON a text begins with, bare, in a list or in a fence, and the text behind them.

    Raises:
        MalformedCall: the text does not begin with a call of an offered tool.
    """
    opening = _OPENING.match(text)
    calls, end = _read_whole_calls(text, opening.end() if opening else 0, tooling)
    if not calls:
        raise MalformedCall("the text does not begin with a call")
    closing = _CLOSING.match(text, end)
    return calls, text[closing.end() if closing else end :].strip()


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


def arguments_of(call: ToolCall) -> dict[str, Any] | str:
    """The arguments as templates want them: an object, empty where the client sent nothing or null, or the client's own
    text where that is no object."""
    if call.arguments.strip() in ("", "null"):
        return {}
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        return call.arguments
    return arguments if isinstance(arguments, dict) and _is_shallow(arguments) else call.arguments


class CallCollector:
    """The calls of one candidate while it is decoded.

    Where a call is required, the answer is nothing but calls, each on a line. It ends when the model says a call again
    that it has made: small models would go on with it until their tokens are spent.
    """

    def __init__(self, syntax: ToolSyntax, tooling: Tooling) -> None:
        self._syntax = GENERIC if tooling.must_call else syntax
        self._tooling = tooling
        self._held = self._line = ""
        self._lines: list[str] = []
        self._is_prose = self._repeats = False
        self.tool_calls: list[ToolCall] = []

    @property
    def marks(self) -> tuple[str, str]:
        """The marks at the beginning and end of a call; the first is empty when the whole text is calls."""
        return ("", "\n") if self._tooling.must_call else (self._syntax.start, self._syntax.end)

    @property
    def is_complete(self) -> bool:
        """Whether no further call is accepted."""
        return bool(self.tool_calls) and (self._repeats or not self._tooling.parallel)

    @property
    def is_whole(self) -> bool:
        """Whether the answer had to be calls and is, but for the beginning of one that it has made before."""
        rest = self._line.strip()
        return self._tooling.must_call and any(line.startswith(rest) for line in self._lines)

    def take(self, piece: Piece, *, cut: bool = False) -> Piece | None:
        """Read the text of a call. A malformed one is counted and returned as plain content with its marks; of one that
        the end of the budget ``cut`` off nothing is returned."""
        if self._tooling.must_call:
            return self._take_line(piece, cut=cut)
        if cut and not piece.closed:
            self._take_unfinished(piece.text)
            return None
        try:
            self._add(read_calls(piece.text, self._syntax, self._tooling))
        except MalformedCall as error:
            return self._refuse(piece, error)
        return None

    def take_content(self, text: str) -> str:
        """Take text of the answer; return what cannot be a call without its marks any more."""
        if self._is_prose:
            return text
        self._held += text
        if may_begin_call(self._held, self._tooling):
            return ""
        self._is_prose = True
        return self._release()

    def finish(self, *, cut: bool = False) -> str:
        """The answer has ended: return what was held back and is no call, nor the beginning of one that was ``cut``
        off."""
        text = self._release()
        if self.tool_calls or self._is_prose:
            return text
        with contextlib.suppress(MalformedCall):
            calls, text = read_unmarked_calls(text, self._tooling)
            self._add(calls)
        return "" if cut and may_begin_call(text, self._tooling) else text

    def _take_line(self, piece: Piece, *, cut: bool) -> Piece | None:
        """Read a call that is required. A line may end within one whose schema asks for white space."""
        self._line += piece.text
        calls, _ = _read_whole_calls(self._line, 0, self._tooling)
        if not calls and not piece.closed:
            return None if cut else self._refuse(Piece("tool", self._line), MalformedCall("the text is no call"))
        if not calls:
            self._line += "\n"
            return None
        self._repeats = any(_is_same(call, calls[0]) for call in self.tool_calls)
        self._add([] if self._repeats else calls)
        self._lines.append(self._line.strip())
        self._line = ""
        return None

    def _take_unfinished(self, text: str) -> None:
        """Keep the calls that are whole in the text of an answer that was cut off."""
        calls, _ = _read_whole_calls(text, 0, self._tooling)
        if not calls and not self._syntax.end:
            with contextlib.suppress(MalformedCall):
                calls = list(read_calls(text, self._syntax, self._tooling))
        self._add(calls)

    def _refuse(self, piece: Piece, error: MalformedCall) -> Piece:
        count_degraded("tools.malformed", f"what the model wrote is not a call: {error}")
        start, end = ("", "") if self._tooling.must_call else self.marks
        return Piece("content", f"{start}{piece.text}{end if piece.closed else ''}")

    def _add(self, calls: Sequence[ToolCall]) -> None:
        self.tool_calls += calls
        if not self._tooling.parallel:
            del self.tool_calls[1:]

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


def _openings_without_marks(tooling: Tooling) -> Iterator[str]:
    """How an answer begins that is a call without its marks; blanks are left out."""
    for fence, bracket, tool in itertools.product(_FENCES, ("", "["), tooling.tools):
        yield f'{fence}{bracket}{{"name":"{tool.name}"'


def _read_values(text: str, at: int) -> tuple[list[Any], int]:
    """The JSON values that stand one after the other from ``at`` on, and where the last of them ends."""
    values, end = [], at
    with contextlib.suppress(ValueError, RecursionError):
        while at < len(text):
            value, end = json.JSONDecoder().raw_decode(text, _skip_separators(text, at))
            values.append(value)
            at = end
    return values, end


def _read_whole_calls(text: str, at: int, tooling: Tooling) -> tuple[list[ToolCall], int]:
    """The calls that stand one after the other from ``at`` on, and where the last of them ends."""
    calls: list[ToolCall] = []
    end = at
    with contextlib.suppress(ValueError, RecursionError):
        while at < len(text):
            value, at = json.JSONDecoder().raw_decode(text, _skip_separators(text, at))
            calls.append(_make_call(value, tooling))
            end = at
    return calls, end


def _is_same(call: ToolCall, other: ToolCall) -> bool:
    return (call.name, call.arguments) == (other.name, other.arguments)


def _skip_separators(text: str, at: int) -> int:
    separator = _SEPARATOR.match(text, at)
    return separator.end() if separator else at


def _is_shallow(value: Any, depth: int = 0) -> bool:
    if depth > _DEEPEST:
        return False
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(_is_shallow(item, depth + 1) for item in items)


def _make_call(raw: Any, tooling: Tooling) -> ToolCall:
    if not isinstance(raw, dict) or not isinstance(raw.get("arguments"), dict):
        raise MalformedCall("a call is an object with a name and an object of arguments")
    if raw.get("name") not in {tool.name for tool in tooling.tools}:
        raise MalformedCall(f"no tool '{raw.get('name')}' was offered")
    arguments = json.dumps(raw["arguments"], ensure_ascii=False)
    return ToolCall(id=f"call_{uuid.uuid4().hex[:24]}", name=raw["name"], arguments=arguments)
