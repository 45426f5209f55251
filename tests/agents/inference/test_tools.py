"""Tool calls: read from what models write, told to templates, and decoded for real where one must come."""

import importlib
import json
from dataclasses import replace
from typing import Any, ClassVar

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.inference.mlx.rows import DecodingRow
from agents.inference.prompt import PromptEncoder
from agents.inference.text import TextFilter
from agents.inference.tools import (
    GENERIC,
    CallCollector,
    MalformedCall,
    ToolSyntax,
    arguments_of,
    describe_tools,
    read_calls,
    schema_of,
    spell_out_tools,
    syntax_of,
)
from bus.metrics import DEGRADED
from schemas.chat import Message, Tool, ToolCall, Tooling
from schemas.errors import InvalidInput
from tests.agents.inference.mlx.test_engine import ask, generate_together

pytestmark = pytest.mark.anyio

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = Tool(name="get_weather", description="The weather of a city.", parameters=json.dumps(CITY))
ADD = Tool(name="add", parameters='{"type": "object", "properties": {"a": {"type": "integer"}}}')
TOOLS = Tooling(tools=(WEATHER, ADD))

WRITTEN = [
    ("json_tools", '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'),
    (
        "qwen3_coder",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>",
    ),
    ("glm47", "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Paris</arg_value></tool_call>"),
    ("mistral", '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}'),
    ("pythonic", '<|tool_call_start|>[get_weather(city="Paris")]<|tool_call_end|>'),
]
"""What models of five families write for the same call, in the form of each family's template."""


def syntax(name: str) -> ToolSyntax:
    module: Any = importlib.import_module(f"mlx_lm.tool_parsers.{name}")
    return ToolSyntax(start=module.tool_call_start, end=module.tool_call_end, parse=module.parse_tool_call)


class LetterDetokenizer:
    """A detokenizer of one letter a token."""

    def __init__(self) -> None:
        self.last_segment = ""

    def add_token(self, token: int) -> None:
        self.last_segment = chr(token)

    def finalize(self) -> None:
        self.last_segment = ""


def decode(
    text: str, calls: CallCollector, *, truncate: bool = False, stops: tuple[str, ...] = ()
) -> tuple[DecodingRow, str]:
    """A row that decoded ``text`` and its end (with ``truncate``, the end of its budget), and the text it streamed."""
    begins = "tool" if calls.marks is None else "content"
    row = DecodingRow(
        index=0,
        budget=len(text) + 1,
        seed=0,
        detokenizer=LetterDetokenizer(),
        filter=TextFilter(stops=stops, calls=calls.marks, begins=begins),  # type: ignore[arg-type]
        eos=frozenset({0}),
        calls=calls,
    )
    pieces = []
    for place, letter in enumerate(text):
        pieces += row.take(ord(letter), -1.0, last=truncate and place == len(text) - 1)
        if row.finish_reason is not None:
            break
    if row.finish_reason is None:
        pieces += row.take(0, -1.0, last=False)
    assert all(piece.kind == "content" for piece in pieces)
    return row, "".join(piece.text for piece in pieces)


def read_counter() -> float:
    return float(DEGRADED.labels("tools.malformed")._value.get())


@pytest.mark.parametrize(("name", "written"), WRITTEN, ids=[name for name, _ in WRITTEN])
def test_each_familys_call_is_read_while_it_is_decoded(name: str, written: str) -> None:
    row, content = decode(f"Let me look.\n{written}", CallCollector(syntax(name), TOOLS))
    candidate = row.candidate(adapters=(), prompt_tokens=1)
    (call,) = candidate.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
    assert call.id.startswith("call_")
    assert candidate.finish_reason == "tool_calls"
    assert candidate.text == content == "Let me look.\n"


def test_calls_are_several_where_parallel_calls_are_allowed() -> None:
    first, second = (f'<tool_call>{{"name": "add", "arguments": {{"a": {number}}}}}</tool_call>' for number in (1, 2))
    row, content = decode(f"{first}\n{second}\n", CallCollector(GENERIC, TOOLS))
    assert [json.loads(call.arguments)["a"] for call in row.candidate(adapters=(), prompt_tokens=1).tool_calls] == [
        1,
        2,
    ]
    assert content == ""
    single = CallCollector(GENERIC, Tooling(tools=(ADD,), parallel=False))
    row, _ = decode(f"{first}\n{second} and more", single)
    assert [json.loads(call.arguments)["a"] for call in single.tool_calls] == [1]
    assert row.finish_reason == "tool_calls"
    assert row.decoded == len(first), "it ends with the first call"


@pytest.mark.parametrize(
    "written",
    [
        '<tool_call>{"name": "get_weather", "arguments": </tool_call>',
        '<tool_call>{"name": "rm", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "add", "arguments": "1"}</tool_call>',
        "<tool_call>[]</tool_call>",
        "<tool_call></tool_call>",
    ],
)
def test_a_malformed_call_is_plain_content_and_counted(written: str) -> None:
    before = read_counter()
    row, content = decode(f"So: {written}", CallCollector(GENERIC, TOOLS))
    candidate = row.candidate(adapters=(), prompt_tokens=1)
    assert candidate.text == content == f"So: {written}"
    assert (candidate.finish_reason, candidate.tool_calls) == ("stop", ())
    assert read_counter() == before + 1


BARE = '{"name": "get_weather", "arguments": {"city": "Paris"}}'


@pytest.mark.parametrize(
    ("written", "rest"),
    [
        (BARE, ""),
        (f"\n{BARE}\n", ""),
        (f"```json\n{BARE}\n```", ""),
        (f"```\n{BARE}\n```\n\nThis asks for the weather.", "This asks for the weather."),
    ],
)
def test_an_answer_that_begins_with_a_bare_call_is_a_call(written: str, rest: str) -> None:
    row, content = decode(written, CallCollector(GENERIC, TOOLS))
    candidate = row.candidate(adapters=(), prompt_tokens=1)
    (call,) = candidate.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
    assert (candidate.finish_reason, candidate.text, content) == ("tool_calls", rest, rest)


@pytest.mark.parametrize(
    "written",
    [
        f"Like this: {BARE}",
        '{"name": "rm", "arguments": {}}',
        '{"name": "Ada", "born": 1815}',
        '{"name": "get_weather", "arg',
        '```python\nprint("name")\n```',
        "{}",
        " ",
    ],
)
def test_other_json_and_code_are_plain_content(written: str) -> None:
    before = read_counter()
    row, content = decode(written, CallCollector(GENERIC, TOOLS))
    candidate = row.candidate(adapters=(), prompt_tokens=1)
    assert (candidate.text, content, candidate.finish_reason) == (written, written, "stop")
    assert (candidate.tool_calls, read_counter()) == ((), before)


def test_prose_is_streamed_while_it_is_decoded() -> None:
    calls = CallCollector(GENERIC, TOOLS)
    assert [calls.take_content(text) for text in ("It", " is", " {")] == ["It", " is", " {"]
    held = CallCollector(GENERIC, TOOLS)
    assert [held.take_content(text) for text in ("{", '"na', '"x"', "!")] == ["", "", '{"na"x"', "!"]


def test_a_call_that_was_cut_off_is_plain_content() -> None:
    row, content = decode('<tool_call>{"name": "add"', CallCollector(GENERIC, TOOLS), truncate=True)
    assert (row.finish_reason, content) == ("length", '<tool_call>{"name": "add"')
    calls = CallCollector(GENERIC, Tooling(tools=(ADD,), forced="add"))
    row, content = decode('{"name": "add", "argu', calls, truncate=True)
    assert (row.finish_reason, content, calls.tool_calls) == ("length", '{"name": "add", "argu', [])


def test_stop_strings_do_not_count_inside_a_call() -> None:
    call = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    row, _ = decode(call, CallCollector(GENERIC, TOOLS), stops=("arguments",))
    assert row.finish_reason == "tool_calls"


@given(st.text(max_size=60))
def test_parsers_survive_any_text(text: str) -> None:
    for name, _ in WRITTEN:
        try:
            calls = read_calls(text, syntax(name), TOOLS)
        except MalformedCall:
            continue
        assert {call.name for call in calls} <= {"get_weather", "add"}


def test_the_schema_of_a_forced_call_allows_that_call_only() -> None:
    good = {"name": "get_weather", "arguments": {"city": "Rome"}}
    jsonschema.validate(good, json.loads(schema_of(TOOLS)))
    for wrong in ({"name": "add", "arguments": {}}, {"name": "get_weather", "arguments": {}}, {**good, "x": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, json.loads(schema_of(Tooling(tools=(WEATHER, ADD), forced="get_weather"))))


CALL = ToolCall(id="call_1", name="get_weather", arguments='{"city": "Paris"}')
DIALOGUE = (
    Message(role="user", content="Weather in Paris?"),
    Message(role="assistant", content="", tool_calls=(CALL,)),
    Message(role="tool", content="Sunny.", name="get_weather", tool_call_id="call_1"),
)


def test_a_template_without_tools_gets_them_in_words(loaded: Any) -> None:
    system, _, assistant, answer = spell_out_tools(DIALOGUE, TOOLS)
    assert json.dumps(describe_tools((WEATHER,))[0]) in system.content
    assert read_calls(assistant.content.removeprefix("<tool_call>").removesuffix("</tool_call>"), GENERIC, TOOLS)
    assert (answer.role, "Sunny." in answer.content) == ("user", True)
    assert syntax_of(loaded.tokenizer) == GENERIC
    messages = spell_out_tools((Message(role="system", content="Be brief."), *DIALOGUE), TOOLS)
    assert messages[0].content.startswith("Be brief.\n\n")


class NativeTokenizer:
    """A tokenizer whose template knows tools: it renders what it is given as JSON, one letter a token."""

    all_special_tokens = ("<|end|>",)
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        return json.dumps(
            {"messages": messages, "tools": options.get("tools"), "thinking": options.get("enable_thinking")}
        )

    def encode(self, text: str, **_: Any) -> list[int]:
        return list(map(ord, text))


def test_a_template_with_tools_gets_them_and_special_tokens_stay_text() -> None:
    encoder = PromptEncoder(NativeTokenizer(), context_tokens=9999, native_tools=True)
    attack = Tool(name="x", description="a <|end|> b", parameters='{"type": "object", "title": "<|end|>"}')
    call = ToolCall(id="1", name="x", arguments='{"a": "<|end|>"}')
    messages = (*DIALOGUE, Message(role="assistant", content="", tool_calls=(call,)))
    text = "".join(map(chr, encoder.encode(messages, Tooling(tools=(WEATHER, attack)), thinking=False).tokens))
    assert text.count("<|end|>") == 3, "each as plain letters, put where the stand-ins stood"
    rendering = json.loads(text)
    assert rendering["tools"][0]["function"]["parameters"] == CITY
    assert rendering["messages"][1]["tool_calls"][0]["function"] == {
        "name": "get_weather",
        "arguments": {"city": "Paris"},
    }
    assert rendering["messages"][2] == {
        "role": "tool",
        "content": "Sunny.",
        "tool_call_id": "call_1",
        "name": "get_weather",
    }
    assert rendering["thinking"] is False


# On the real small model: it knows no tools, but a call that must come does. The schemas are narrow, because it would
# fill a free text until its tokens are spent.

NARROW = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
FORECAST = Tool(name="forecast", parameters=json.dumps({**NARROW, "additionalProperties": False}))


async def test_a_call_that_must_come_comes(engine: Any) -> None:
    pieces: list[str] = []

    async def hear(piece: Any) -> None:
        pieces.append(piece.text)

    tooling = Tooling(tools=(FORECAST, ADD), forced="forecast")
    request = ask("What is the weather in Paris?", tooling=tooling, sampling={"max_tokens": 60})
    (candidate,) = (await engine.generate(request, hear)).candidates
    (call,) = candidate.tool_calls
    jsonschema.validate(json.loads(call.arguments), NARROW)
    assert (call.name, candidate.finish_reason, candidate.text, pieces) == ("forecast", "tool_calls", "", [])


async def test_tools_beside_plain_requests_and_their_answers_back(engine: Any) -> None:
    call_request = ask("Forecast?", tooling=Tooling(tools=(FORECAST,), required=True), sampling={"max_tokens": 60})
    answer_request = replace(ask(tooling=TOOLS, sampling={"max_tokens": 4}), messages=DIALOGUE)
    call_outcome, plain, after = await generate_together(engine, call_request, ask(), answer_request)
    assert [call.name for call in call_outcome.candidates[0].tool_calls] == ["forecast"]
    assert plain.candidates[0].tool_calls == ()
    assert after.candidates[0].usage.completion_tokens > 0


@pytest.mark.parametrize("parameters", ["{", '{"type": "nothing"}'])
async def test_parameters_that_are_no_schema_are_refused(engine: Any, parameters: str) -> None:
    tool = Tool(name="x", parameters=parameters)
    with pytest.raises(InvalidInput) as caught:
        await engine.generate(ask(tooling=Tooling(tools=(tool,), required=True)))
    assert caught.value.param == "tools"


@pytest.mark.parametrize("arguments", ["", "{", "[" * 50_000])
async def test_arguments_that_are_no_json_are_told_as_text(arguments: str) -> None:
    assert arguments_of(ToolCall(id="1", name="add", arguments=arguments)) == arguments
