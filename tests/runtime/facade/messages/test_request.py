"""Anthropic's bodies as chat requests: roles, blocks, tools, and what is refused by name."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runtime.facade import FacadeSettings
from runtime.facade.chat.request import CheckedRequest, check_chat
from runtime.facade.messages.request import MessagesRequest, translate_request
from schemas.chat import Message
from schemas.errors import InvalidInput
from tests.runtime.facade.scripted import MODELS

USER = {"role": "user", "content": "hi"}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}
CALLED = {"role": "assistant", "content": [CALL]}
WEATHER = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


def check(**fields: Any) -> CheckedRequest:
    body = {"model": "micro-kiki-fast", "max_tokens": 9, "messages": [USER], **fields}
    chat_request = translate_request(msgspec.convert(body, MessagesRequest, strict=False))
    return check_chat(chat_request, models=MODELS, settings=FacadeSettings())


def messages_of(*messages: dict[str, Any], **fields: Any) -> list[Message]:
    return list(check(messages=list(messages), **fields).query.messages)


def result(content: Any = "Sunny", **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": content, **fields}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content, "cache_control": {"type": "ephemeral"}}


def test_the_system_text_begins_the_conversation_whatever_its_form() -> None:
    plain = messages_of(USER, system="Be brief.")
    assert plain == [Message(role="system", content="Be brief."), Message(role="user", content="hi")]
    blocks = [text("x-anthropic-billing-header: cc_version=2.1; cch=abc"), text("Be brief."), text("Be kind.")]
    assert messages_of(USER, system=blocks)[0].content == "Be brief.\n\nBe kind."
    assert messages_of(USER, system=[])[0].role == "user"


def test_a_message_may_be_blocks_of_text_and_of_thought() -> None:
    thoughts = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "xx"},
        text("Hello."),
    ]
    assert messages_of(
        {"role": "user", "content": [text("One"), text("two")]},
        {"role": "assistant", "content": thoughts},
        {"role": "system", "content": [text("Speak French.")]},
        USER,
    ) == [
        Message(role="user", content="One\ntwo"),
        Message(role="assistant", content="Hello."),
        Message(role="system", content="Speak French."),
        Message(role="user", content="hi"),
    ]


def test_calls_and_results_become_messages_of_their_own() -> None:
    _, call, answer, rest = messages_of(
        USER,
        {"role": "assistant", "content": [text("Let me see."), CALL]},
        {"role": "user", "content": [text("And?"), result()]},
    )
    assert (call.role, call.content) == ("assistant", "Let me see.")
    assert [(made.id, made.name, made.arguments) for made in call.tool_calls] == [
        ("toolu_1", "weather", '{"city":"Paris"}')
    ]
    assert answer == Message(role="tool", content="Sunny", name="weather", tool_call_id="toolu_1")
    assert rest == Message(role="user", content="And?")


@pytest.mark.parametrize(
    ("block", "content"),
    [
        (result([text("Sunny"), text("25 °C")]), "Sunny\n25 °C"),
        (result([]), ""),
        (result(None), ""),
        ({"type": "tool_result", "tool_use_id": "toolu_1"}, ""),
        (result("no such city", is_error=True), "The tool failed: no such city"),
        (result(None, is_error=True), "The tool failed."),
    ],
)
def test_a_result_is_text_and_says_that_the_tool_failed(block: dict[str, Any], content: str) -> None:
    messages = messages_of(USER, CALLED, {"role": "user", "content": [block]})
    assert [message.role for message in messages] == ["user", "assistant", "tool"]
    assert messages[-1].content == content


def test_consecutive_roles_and_an_assistants_beginning_are_taken() -> None:
    checked = check(messages=[USER, USER, {"role": "assistant", "content": "The best answer is ("}])
    assert [message.role for message in checked.query.messages] == ["user", "user", "assistant"]
    assert checked.query.level == "fast"


def test_sampling_fields_have_their_own_names() -> None:
    checked = check(
        stop_sequences=["END"], temperature=0.5, top_p=0.9, top_k=5, stream=True, metadata={"user_id": "ann"}
    )
    sampling = checked.query.sampling
    assert (sampling.max_tokens, sampling.stop, sampling.temperature) == (9, ("END",), 0.5)
    assert (sampling.top_p, sampling.top_k, checked.query.stream) == (0.9, 5, True)
    assert ("user", "ann") in checked.users


@pytest.mark.parametrize(
    ("choice", "required", "forced", "parallel"),
    [
        (None, False, None, True),
        ({"type": "auto"}, False, None, True),
        ({"type": "any", "disable_parallel_tool_use": True}, True, None, False),
        ({"type": "tool", "name": "weather"}, False, "weather", False),
    ],
)
def test_tools_are_offered_as_the_choice_says(choice: Any, required: bool, forced: str | None, parallel: bool) -> None:
    tooling = check(tools=[WEATHER | {"type": "custom", "strict": True}], tool_choice=choice).query.tooling
    assert tooling is not None
    assert (tooling.required, tooling.forced, tooling.parallel) == (required, forced, parallel)
    (tool,) = tooling.tools
    assert msgspec.json.decode(tool.parameters) == WEATHER["input_schema"]


def test_no_tool_may_be_called_when_none_is_wanted() -> None:
    assert check(tools=[WEATHER], tool_choice={"type": "none"}).query.tooling is None


@pytest.mark.parametrize(
    ("thinking", "asked", "shown"),
    [
        (None, None, False),
        ({"type": "disabled"}, False, False),
        ({"type": "enabled", "budget_tokens": 2048}, True, True),
        ({"type": "adaptive"}, True, True),
        ({"type": "adaptive", "display": "omitted"}, True, False),
        ({"type": "between_tools"}, True, True),
    ],
)
def test_reasoning_is_shown_to_whom_asks_for_it(thinking: Any, asked: bool | None, shown: bool) -> None:
    checked = check(thinking=thinking, model="kiki-meta-reasoning")
    assert (checked.query.thinking, checked.thinking) == (asked, shown)


@pytest.mark.parametrize(
    ("effort", "level"), [("low", "fast"), ("medium", None), ("high", "full"), ("xhigh", "full"), ("max", "full")]
)
def test_effort_chooses_the_level(effort: str, level: str | None) -> None:
    assert check(output_config={"effort": effort}).query.level == level


@pytest.mark.parametrize("name", ["output_config", "output_format"])
def test_an_answer_follows_the_schema_of_either_field(name: str) -> None:
    form = {"type": "json_schema", "schema": {"type": "object", "properties": {"ok": {"type": "boolean"}}}}
    checked = check(**{name: {"format": form} if name == "output_config" else form}, model="micro-kiki")
    assert msgspec.json.decode(checked.query.sampling.json_schema or "") == form["schema"]
    assert (checked.query.level, checked.stepped_down) == ("fast", "response_format")


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": []}, "messages"),
    ({"messages": [USER, CALLED]}, "messages[1]"),
    ({"messages": [{"role": "user", "content": [text("See."), IMAGE]}]}, "messages[0].content[1].type"),
    ({"messages": [{"role": "user", "content": [PDF]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "search_result"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [CALL]}]}, "messages[0].content[0].type"),
    ({"messages": [USER, {"role": "assistant", "content": [result()]}]}, "messages[1].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [result()]}]}, "messages[0].content[0].tool_use_id"),
    (
        {"messages": [USER, CALLED, {"role": "user", "content": [result([IMAGE])]}]},
        "messages[2].content[0].content[0].type",
    ),
    ({"messages": [USER, {"role": "assistant", "content": [CALL | {"id": ""}]}]}, "messages[1].content[0].id"),
    ({"messages": [USER, {"role": "assistant", "content": [CALL | {"input": 3}]}]}, "messages[1].content[0].input"),
    ({"messages": [USER, {"role": "assistant", "content": [{"type": "tool_use"}]}]}, "messages[1].content[0].id"),
    ({"system": [IMAGE]}, "system[0].type"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "time"}}, "tool_choice"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"container": {"skills": []}}, "container"),
    ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
    ({"thread": {"id": "t"}}, "thread"),
    ({"max_tokens": 0}, "max_tokens"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=lambda value: str(value)[:50])
def test_an_unserved_field_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        check(**fields)
    assert refusal.value.param == param


@pytest.mark.parametrize("neutral", [{"mcp_servers": []}, {"container": None}, {"system": None}, {"tools": []}])
def test_a_neutral_value_passes(neutral: dict[str, Any]) -> None:
    assert check(**neutral).query.tooling is None


def test_the_page_on_http_names_every_field() -> None:
    page = (Path(__file__).parents[4] / "docs" / "http.md").read_text(encoding="utf-8")
    assert {*MessagesRequest.__struct_fields__} <= set(re.findall(r"`([a-z_]+)`", page))
