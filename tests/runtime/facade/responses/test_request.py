"""Bodies of responses: what they become as chat requests, and in whose words they are refused."""

from typing import Any

import msgspec
import pytest

from runtime.facade import FacadeSettings
from runtime.facade.chat.fields import decode_body
from runtime.facade.chat.request import CheckedRequest
from runtime.facade.responses.request import ResponseRequest, check_response, refuse_unserved
from runtime.facade.responses.terms import Terms, read_terms
from runtime.facade.words import translate
from schemas.chat import Message, ToolCall
from schemas.errors import InvalidInput, KikiError
from tests.runtime.facade.scripted import MODELS

SETTINGS = FacadeSettings()
TOOL = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}
CUSTOM = {"type": "custom", "name": "run"}


def check(earlier: tuple[Message, ...] = (), **fields: Any) -> tuple[CheckedRequest, Terms]:
    body = {"model": "micro-kiki-fast", "input": "What?"} | fields
    request = decode_body(ResponseRequest, msgspec.json.encode(body), strict=True)
    refuse_unserved(request)
    return check_response(request, request.input or (), earlier, models=MODELS, settings=SETTINGS)


def messages(**fields: Any) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in check(**fields)[0].query.messages]


def test_an_input_is_a_text_or_items() -> None:
    assert messages(input="What?") == [("user", "What?")]
    items = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello."}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Hi.", "annotations": [], "logprobs": []}],
        },
        {"role": "user", "content": "What?"},
    ]
    expected = [("system", "Be brief."), ("user", "Hello."), ("assistant", "Hi."), ("user", "What?")]
    assert messages(input=items) == expected
    assert messages(input=items, instructions="Be kind.")[0] == ("system", "Be kind.\n\nBe brief.")


def test_calls_that_follow_each_other_are_one_message() -> None:
    def call(number: int) -> dict[str, Any]:
        return {
            "type": "function_call",
            "call_id": f"c{number}",
            "name": "look",
            "arguments": "{}",
            "id": f"fc_{number}",
        }

    def output(number: int) -> dict[str, Any]:
        parts = [{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}]
        return {"type": "function_call_output", "call_id": f"c{number}", "output": parts}

    said = {"role": "assistant", "content": "I look."}
    items = [{"role": "user", "content": "Look."}, said, call(1), call(2), output(1), output(2), call(3), output(3)]
    request, _ = check(input=items)
    asked, calling, *answers, again, last = request.query.messages
    assert asked.content == "Look."
    assert (calling.content, [call.id for call in calling.tool_calls]) == ("I look.", ["c1", "c2"])
    assert [(answer.tool_call_id, answer.content, answer.name) for answer in answers] == [
        ("c1", "a\nb", "look"),
        ("c2", "a\nb", "look"),
    ]
    assert ([call.id for call in again.tool_calls], last.tool_call_id) == (["c3"], "c3")


def test_calls_of_the_input_do_not_join_an_earlier_answer() -> None:
    earlier = (Message(role="user", content="Look."), Message(role="assistant", content="I did."))
    items = [
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": {}},
        {"type": "function_call_output", "call_id": "c1", "output": "x"},
    ]
    request, _ = check(earlier, input=items)
    assert [len(message.tool_calls) for message in request.query.messages] == [0, 0, 1, 0]


def test_an_earlier_conversation_is_sent_again_as_it_was() -> None:
    earlier = (
        Message(role="system", content="Be brief."),
        Message(role="user", content="Look."),
        Message(role="assistant", content="", tool_calls=(ToolCall(id="c1", name="look", arguments='{"at":"x"}'),)),
        Message(role="tool", content="a", name="look", tool_call_id="c1"),
    )
    request, _ = check(earlier, input="And?", instructions="Be kind.")
    assert request.query.messages[0].content == "Be kind.\n\nBe brief."
    assert request.query.messages[1:-1] == earlier[1:]


@pytest.mark.parametrize(
    ("choice", "required", "forced", "names"),
    [
        (None, False, None, ["look", "run"]),
        ("required", True, None, ["look", "run"]),
        ({"type": "function", "name": "look"}, False, "look", ["look", "run"]),
        ({"type": "custom", "name": "run"}, False, "run", ["look", "run"]),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "look"}]},
            True,
            None,
            ["look"],
        ),
    ],
)
def test_tools_are_chosen_as_a_chat_request_chooses_them(
    choice: Any, required: bool, forced: str | None, names: list[str]
) -> None:
    request, terms = check(tools=[TOOL, CUSTOM], tool_choice=choice)
    tooling = request.query.tooling
    assert tooling is not None
    assert (tooling.required, tooling.forced, [tool.name for tool in tooling.tools]) == (required, forced, names)
    assert [tool["name"] for tool in terms.fields["tools"]] == ["look", "run"]
    assert terms.custom_tools == {"run"}


def test_no_tool_is_called_where_none_is_chosen() -> None:
    request, terms = check(tools=[TOOL], tool_choice="none")
    assert request.query.tooling is None
    assert (terms.fields["tool_choice"], len(terms.fields["tools"])) == ("none", 1)


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        (None, None),
        ({}, None),
        ({"format": {"type": "text"}, "verbosity": "low"}, None),
        ({"format": {"type": "json_object"}}, '{"type": "object"}'),
        (
            {"format": {"type": "json_schema", "name": "n", "schema": {"type": "array"}, "strict": True}},
            '{"type":"array"}',
        ),
    ],
)
def test_the_text_may_have_a_format(text: Any, schema: str | None) -> None:
    assert check(text=text)[0].query.sampling.json_schema == schema


@pytest.mark.parametrize(
    ("fields", "logprobs", "top"),
    [
        ({}, False, 0),
        ({"top_logprobs": 0}, False, 0),
        ({"top_logprobs": 3}, True, 3),
        ({"include": ["message.output_text.logprobs"]}, True, 0),
        ({"include": ["message.output_text.logprobs", "reasoning.encrypted_content"], "top_logprobs": 2}, True, 2),
    ],
)
def test_probabilities_are_asked_for_in_two_fields(fields: dict[str, Any], logprobs: bool, top: int) -> None:
    sampling = check(**fields)[0].query.sampling
    assert (sampling.logprobs, sampling.top_logprobs) == (logprobs, top)


@pytest.mark.parametrize(
    ("effort", "level"), [("minimal", "fast"), ("low", "fast"), ("high", "full"), ("medium", None)]
)
def test_the_effort_names_the_level(effort: str, level: str | None) -> None:
    request, terms = check(model="micro-kiki", reasoning={"effort": effort, "summary": "auto"})
    assert request.query.level == level
    assert terms.fields["reasoning"] == {"effort": effort, "summary": "auto"}


def test_the_query_holds_what_the_response_says_of_its_request() -> None:
    request, terms = check(metadata={"number": 1, "session_id": "s"}, instructions="Be brief.", max_output_tokens=7)
    assert read_terms(request.query.request) == terms
    assert (terms.fields["metadata"], terms.instructions) == ({"number": "1", "session_id": "s"}, "Be brief.")
    assert (request.session, request.query.sampling.max_tokens) == ("s", 7)
    assert (terms.fields["store"], terms.fields["parallel_tool_calls"], terms.fields["truncation"]) == (
        True,
        True,
        "disabled",
    )
    assert read_terms("") is None
    assert read_terms("{}") is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": 5.5}, "input"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input"),
        ({"input": [{}]}, "input[0].type"),
        ({"input": [{"type": "web_search_call", "id": "ws"}]}, "input[0].type"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"type": "message", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "bot", "content": "x"}]}, "input[0].role"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0].type",
        ),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"}]}, "input[0]"),
        ({"input": [{"type": "function_call", "name": "look", "arguments": "{}"}]}, "input[0].call_id"),
        (
            {
                "input": [
                    {"role": "user", "content": "x"},
                    {"type": "reasoning"},
                    {"type": "function_call", "call_id": "c", "name": "l k", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "c", "output": ""},
                ]
            },
            "input[2].name",
        ),
        ({"input": [{"type": "custom_tool_call", "call_id": "c", "name": "run"}]}, "input[0].input"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": [{}]}]}, "input[0].output[0].type"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [TOOL, {"type": "function"}]}, "tools[1].name"),
        ({"tools": [TOOL, {"type": "function", "name": "l k"}]}, "tools[1].name"),
        ({"tools": [{"type": "custom", "name": "x", "format": {"type": "grammar"}}]}, "tools[0].format"),
        ({"tools": "none"}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"truncation": "some"}, "truncation"),
        ({"model": "gpt-99"}, "model"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
        ({"kiki": {"history": "session"}, "model": "micro-kiki-base"}, "kiki.history"),
        ({"n": 2}, "n"),
    ],
)
def test_a_refusal_names_the_field_as_the_client_sent_it(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        check(**fields)
    assert refusal.value.param == param
    for name in ("messages", "response_format", "max_completion_tokens", "tool_calls"):
        assert name not in refusal.value.message


@pytest.mark.parametrize(
    "fields", [{"background": False}, {"conversation": None}, {"prompt_cache_key": "k"}, {"max_tool_calls": 3}]
)
def test_a_field_that_asks_for_nothing_passes(fields: dict[str, Any]) -> None:
    assert check(**fields)[0].query.messages[-1].content == "What?"


def test_places_in_the_input_count_from_the_input() -> None:
    earlier = (Message(role="user", content="Look."), Message(role="assistant", content="I did."))
    with pytest.raises(InvalidInput) as refusal:
        check(earlier, input=[{"role": "user", "content": "x"}, {"role": "user", "content": [{"type": "input_file"}]}])
    assert refusal.value.param == "input[1].content[0].type"


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        (None, None),
        ("messages", "input"),
        ("messages[3].content", "input"),
        ("response_format.json_schema", "text.format.json_schema"),
        ("tools[2].function.parameters", "tools[2].parameters"),
        ("tools[2].custom", "tools[2]"),
        ("kiki.memory", "kiki.memory"),
        ("input[1].content", "input[1].content"),
    ],
)
def test_a_stages_error_is_put_into_words_of_responses(param: str | None, expected: str | None) -> None:
    error = translate(KikiError("'response_format' and 'messages' are wrong, the messages are.", param=param))
    assert (error.param, error.message) == (expected, "'text.format' and 'input' are wrong, the messages are.")
    assert translate(error).param == expected
