"""Tools through the official client: offered, called whole and streamed, answered, and refused by field."""

from typing import Any

import httpx
import msgspec
import pytest
from openai import AsyncOpenAI

from runtime.facade import FacadeSettings
from runtime.facade.chat.request import read_chat
from schemas.chat import ToolCall
from tests.runtime.facade.scripted import MODELS, Script, chat_body

pytestmark = pytest.mark.anyio

FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOL: Any = {"type": "function", "function": FUNCTION}
USER: Any = {"role": "user", "content": "Weather in Paris?"}
CALL: Any = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
CALLED: Any = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWER: Any = {"role": "tool", "tool_call_id": "call_1", "content": "Sunny."}


@pytest.fixture
def calling(script: Script) -> Script:
    script.tokens, script.text = (), ""
    script.tool_calls = (ToolCall(id="call_1", name="weather", arguments='{"city": "Paris"}'),)
    return script


async def test_a_call_comes_whole(url: str, calling: Script) -> None:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        reply = await client.chat.completions.create(model="micro-kiki", messages=[USER], tools=[TOOL])
    (choice,) = reply.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert choice.message.tool_calls is not None
    assert choice.message.tool_calls[0].model_dump() == CALL
    query = calling.queries[0].query
    assert query.tooling is not None
    assert (query.tooling.tools[0].name, query.tooling.must_call) == ("weather", False)
    assert query.level == "fast", "nobody argues over a call"


async def test_a_call_comes_in_a_stream(url: str, calling: Script) -> None:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="micro-kiki-fast", messages=[USER], tools=[TOOL], tool_choice="required", stream=True
        )
        choices = [chunk.choices[0] async for chunk in stream]
    (delta,) = [choice.delta.tool_calls for choice in choices if choice.delta.tool_calls]
    assert [(call.index, call.id, call.type) for call in delta] == [(0, "call_1", "function")]
    assert delta[0].function is not None
    assert (delta[0].function.name, delta[0].function.arguments) == ("weather", '{"city": "Paris"}')
    assert choices[-1].finish_reason == "tool_calls"
    assert not any(choice.delta.content for choice in choices)


async def test_the_answer_of_a_tool_reaches_the_worker(url: str, script: Script) -> None:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        await client.chat.completions.create(model="micro-kiki", messages=[USER, CALLED, ANSWER], tools=[TOOL])
    _, assistant, tool = script.queries[0].query.messages
    assert assistant.tool_calls[0].arguments == '{"city": "Paris"}'
    assert (tool.role, tool.name, tool.tool_call_id, tool.content) == ("tool", "weather", "call_1", "Sunny.")
    assert script.queries[0].query.text == "Weather in Paris?"


def read_query(**fields: Any) -> Any:
    return read_chat(msgspec.json.encode(chat_body(**fields)), models=MODELS, settings=FacadeSettings()).query


def test_the_choice_of_tools_is_read() -> None:
    choice = {"type": "function", "function": {"name": "weather"}}
    assert read_query(tools=[TOOL], tool_choice=choice).tooling.forced == "weather"
    assert read_query(tools=[TOOL], tool_choice="required").tooling.required
    assert read_query(tools=[TOOL], tool_choice="none").tooling is None
    assert read_query(tools=[], tool_choice="auto").tooling is None
    assert read_query(tools=[TOOL]).tooling.parallel
    assert not read_query(tools=[TOOL], parallel_tool_calls=False).tooling.parallel
    assert not read_query(tools=[TOOL], tool_choice="required").tooling.parallel
    assert read_query(tools=[TOOL], tool_choice="required", parallel_tool_calls=True).tooling.parallel
    assert read_query(tools=[TOOL], kiki={"level": "raw"}).level == "raw"
    assert read_query(tools=[{"type": "function", "function": {"name": "now"}}]).tooling.tools[0].parameters


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": FUNCTION | {"parameters": "x"}}]}, "tools[0].function.parameters"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tools": [TOOL], "kiki": {"level": "full"}}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "always"}, "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": "required", "response_format": {"type": "json_object"}},
            "tool_choice",
        ),
        ({"messages": [USER | {"tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        ({"messages": [USER, CALLED | {"tool_calls": [{"id": "1"}]}, USER]}, "messages[1].tool_calls[0].function"),
        ({"messages": [USER, CALLED, ANSWER | {"tool_call_id": "other"}]}, "messages[2].tool_call_id"),
        ({"messages": [USER, ANSWER]}, "messages[1].tool_call_id"),
        ({"messages": [USER | {"tool_call_id": "call_1"}]}, "messages[0].tool_call_id"),
        ({"messages": [USER, CALLED]}, "messages[1]"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_bad_tools_are_refused_by_field(http: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    reply = await http.post("/v1/chat/completions", json=chat_body(**fields))
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "invalid_request", param), error["message"]
