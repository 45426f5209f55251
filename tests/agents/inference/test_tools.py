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
    begins = "content" if calls.marks[0] else "tool"
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


MARKED = f"<tool_call>\n{BARE}\n</tool_call>"
REQUIRED = Tooling(tools=(WEATHER, ADD), required=True)
FORCED = Tooling(tools=(WEATHER,), forced="get_weather")


@pytest.mark.parametrize(
    ("before", "written", "collector"),
    [
        ("", MARKED, lambda: CallCollector(GENERIC, TOOLS)),
        ("Let me look.\n", MARKED, lambda: CallCollector(GENERIC, TOOLS)),
        ("", f"```json\n[{BARE}]\n```", lambda: CallCollector(GENERIC, TOOLS)),
        ("", BARE, lambda: CallCollector(GENERIC, FORCED)),
        ("", BARE, lambda: CallCollector(GENERIC, REQUIRED)),
        *(
            ("Let me look.\n", written, lambda name=name: CallCollector(syntax(name), TOOLS))
            for name, written in WRITTEN
        ),
    ],
)
def test_a_call_that_is_cut_off_anywhere_is_no_text(before: str, written: str, collector: Any) -> None:
    malformed = read_counter()
    for end in range(1, len(written) + 1):
        row, content = decode(before + written[:end], collector(), truncate=True)
        candidate = row.candidate(adapters=(), prompt_tokens=1)
        assert (candidate.text, content) == (before, before), written[:end]
        for call in candidate.tool_calls:
            assert json.loads(call.arguments) == {"city": "Paris"}, "only a whole call is one"
        assert candidate.finish_reason == "length" or candidate.tool_calls
    assert read_counter() == malformed


@pytest.mark.parametrize("written", [MARKED, BARE])
def test_a_call_that_the_time_cuts_off_is_no_text(written: str) -> None:
    calls = CallCollector(GENERIC, TOOLS)
    text = TextFilter(calls=calls.marks)
    row = DecodingRow(
        index=0, budget=999, seed=0, detokenizer=LetterDetokenizer(), filter=text, eos=frozenset({0}), calls=calls
    )
    pieces = [piece for letter in written[:30] for piece in row.take(ord(letter), -1.0, last=False)]
    assert [*pieces, *row.cut()] == []
    assert (row.finish_reason, calls.tool_calls) == ("length", [])


def test_calls_that_are_whole_before_the_cut_are_kept() -> None:
    row, content = decode(f"{MARKED}\n{MARKED[:40]}", CallCollector(GENERIC, TOOLS), truncate=True)
    assert (len(row.candidate(adapters=(), prompt_tokens=1).tool_calls), row.finish_reason, content) == (
        1,
        "length",
        "",
    )
    row, content = decode(f"{BARE}\n{BARE[:-3]}R", CallCollector(GENERIC, REQUIRED), truncate=True)
    assert (len(row.candidate(adapters=(), prompt_tokens=1).tool_calls), row.finish_reason, content) == (
        1,
        "length",
        "",
    )


@pytest.mark.parametrize("tooling", [FORCED, REQUIRED])
def test_a_required_call_that_ends_with_the_budget_is_whole(tooling: Tooling) -> None:
    row, content = decode(BARE, CallCollector(GENERIC, tooling), truncate=True)
    assert (row.finish_reason, content) == ("tool_calls", "")


def test_prose_that_is_cut_off_is_kept() -> None:
    for text in ("The sum is 3 <", 'So: {"name": "get_wea', '{"name": "Ada", "born": 18', "```python\nprint("):
        row, content = decode(text, CallCollector(GENERIC, TOOLS), truncate=True)
        assert (row.finish_reason, content) == ("length", text.removesuffix("<"))
    row, content = decode("The sum is 3 [", CallCollector(syntax("mistral"), TOOLS))
    assert (row.finish_reason, content) == ("stop", "The sum is 3 [")


def test_an_object_with_another_name_is_streamed_before_it_ends() -> None:
    calls = CallCollector(GENERIC, TOOLS)
    assert [calls.take_content(text) for text in ('{"name": "', "A", "da")] == ["", '{"name": "A', "da"]


ROME = BARE.replace("Paris", "Rome")


@pytest.mark.parametrize(
    "written",
    [
        f"{BARE}\n{ROME}",
        f"[{BARE}, {ROME}]",
        f"```json\n[{BARE},\n{ROME}]\n```",
        f"<tool_call>{BARE}</tool_call>\n<tool_call>{ROME}</tool_call>",
        f"<tool_call>{BARE}\n{ROME}</tool_call>",
        f"<tool_call>[{BARE}, {ROME}]</tool_call>",
    ],
)
def test_several_calls_of_one_answer_are_read_in_every_form(written: str) -> None:
    row, content = decode(written, CallCollector(GENERIC, TOOLS))
    calls = row.candidate(adapters=(), prompt_tokens=1).tool_calls
    assert [json.loads(call.arguments)["city"] for call in calls] == ["Paris", "Rome"]
    assert len({call.id for call in calls}) == 2
    assert (row.finish_reason, content) == ("tool_calls", "")
    single = CallCollector(GENERIC, Tooling(tools=(WEATHER,), parallel=False))
    decode(written, single)
    assert [json.loads(call.arguments)["city"] for call in single.tool_calls] == ["Paris"]


def test_required_calls_stand_on_lines_and_end_when_one_comes_again() -> None:
    calls = CallCollector(GENERIC, REQUIRED)
    row, content = decode(f"{BARE}\n{ROME}\n{BARE}\n{ROME}", calls)
    assert [json.loads(call.arguments)["city"] for call in calls.tool_calls] == ["Paris", "Rome"]
    assert (row.finish_reason, content) == ("tool_calls", "")
    assert row.decoded <= len(f"{BARE}\n{ROME}\n{BARE}\n")
    row, _ = decode(f"{BARE}\n{BARE[:-5]}", CallCollector(GENERIC, REQUIRED), truncate=True)
    assert row.finish_reason == "tool_calls", "what is cut off has been made before"


def test_a_required_call_may_be_spread_over_lines() -> None:
    calls = CallCollector(GENERIC, REQUIRED)
    row, content = decode(BARE.replace("{", "{\n"), calls)
    assert (len(calls.tool_calls), row.finish_reason, content) == (1, "tool_calls", "")


def test_a_required_call_that_no_grammar_held_is_counted_and_shown() -> None:
    before = read_counter()
    row, content = decode("I cannot.", CallCollector(GENERIC, REQUIRED))
    assert (row.finish_reason, content, read_counter()) == ("stop", "I cannot.", before + 1)


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


async def test_a_required_call_of_a_small_model_ends(engine: Any) -> None:
    for tooling in (
        Tooling(tools=(FORECAST,), required=True),
        Tooling(tools=(FORECAST,), required=True, parallel=False),
    ):
        (candidate,) = (
            await engine.generate(ask("Forecast for Paris?", tooling=tooling, sampling={"max_tokens": 200}))
        ).candidates
        assert (candidate.finish_reason, candidate.text) == ("tool_calls", "")
        cities = [json.loads(call.arguments)["city"] for call in candidate.tool_calls]
        assert len(cities) == len(set(cities)) <= (2 if tooling.parallel else 1)


async def test_a_forced_call_that_the_budget_cuts_off_is_no_text(engine: Any) -> None:
    pieces: list[Any] = []

    async def hear(piece: Any) -> None:
        pieces.append(piece)

    request = ask("Forecast?", tooling=Tooling(tools=(FORECAST,), forced="forecast"), sampling={"max_tokens": 5})
    (candidate,) = (await engine.generate(request, hear)).candidates
    assert (candidate.finish_reason, candidate.text, candidate.tool_calls) == ("length", "", ())
    assert "".join(piece.text for piece in pieces) == ""


async def test_arguments_name_nothing_that_was_not_asked_for(engine: Any) -> None:
    city = Tool(
        name="get_weather", parameters='{"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}}'
    )
    now = Tool(name="now", parameters="{}")
    for tool, keys in ((city, {"city"}), (now, set())):
        request = ask("Go.", tooling=Tooling(tools=(tool,), forced=tool.name), sampling={"max_tokens": 60})
        (call,) = (await engine.generate(request)).candidates[0].tool_calls
        assert set(json.loads(call.arguments)) <= keys


@pytest.mark.parametrize(
    ("parameters", "tooling"),
    [
        ("{", {}),
        ("[" * 5000, {}),
        ('{"items":' * 200 + "{}" + "}" * 200, {}),
        ('{"type": "nothing"}', {"required": True}),
        ('{"$ref": "https://example.org/x"}', {"forced": "x"}),
    ],
)
async def test_parameters_that_are_no_schema_are_refused(engine: Any, parameters: str, tooling: Any) -> None:
    tool = Tool(name="x", parameters=parameters)
    with pytest.raises(InvalidInput, match="'x'") as caught:
        await engine.generate(ask(tooling=Tooling(tools=(tool,), **tooling)))
    assert caught.value.param == "tools"


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("", {}),
        (" null\n", {}),
        ("{}", {}),
        ('{"a": [1]}', {"a": [1]}),
        ('{"cmd": ', '{"cmd": '),
        ('["ls"]', '["ls"]'),
        ("5", "5"),
        ('"x"', '"x"'),
        ("{", "{"),
        ("[" * 50_000, "[" * 50_000),
        ('{"a":' * 200 + "1" + "}" * 200, '{"a":' * 200 + "1" + "}" * 200),
        ("9" * 5000, "9" * 5000),
    ],
    ids=lambda value: str(value)[:20],
)
def test_arguments_that_are_no_object_are_told_as_the_client_sent_them(sent: str, shown: Any) -> None:
    assert arguments_of(ToolCall(id="1", name="add", arguments=sent)) == shown
