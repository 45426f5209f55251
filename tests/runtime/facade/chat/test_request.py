"""Bad input: every case is refused with its status, its code and the field at fault."""

from typing import Any

import httpx
import msgspec
import pytest

from runtime.catalogue import Catalogue, ServedModel
from runtime.facade import FacadeSettings
from runtime.facade.chat.request import REFUSED as UNSERVED
from runtime.facade.chat.request import ChatRequest, read_chat
from schemas.chat import MAX_TOKENS
from schemas.errors import KikiError
from tests.runtime.facade.scripted import MODELS, Script, chat_body

pytestmark = pytest.mark.anyio
USER = {"role": "user", "content": "hi"}
IMAGE = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/x.png"}}

REFUSED: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({"model": "gpt-99"}, 404, "model_not_found", "model"),
    ({"model": 3}, 400, "invalid_request", "model"),
    ({"messages": []}, 400, "invalid_request", "messages"),
    ({"messages": "hi"}, 400, "invalid_request", "messages"),
    ({"messages": [{"role": "robot", "content": "x"}, USER]}, 400, "invalid_request", "messages[0].role"),
    ({"messages": [{"role": "tool", "content": "x"}, USER]}, 400, "invalid_request", "messages[0].tool_call_id"),
    ({"messages": [{"role": "user"}]}, 400, "invalid_request", "messages[0].content"),
    ({"messages": [{"role": "user", "content": 3}]}, 400, "invalid_request", "messages[0].content"),
    ({"messages": [USER | {"content": [IMAGE]}]}, 400, "invalid_request", "messages[0].content[0].type"),
    ({"messages": [USER | {"content": [{"type": "text"}]}]}, 400, "invalid_request", "messages[0].content[0].text"),
    ({"messages": [USER | {"function_call": {"name": "f"}}]}, 400, "invalid_request", "messages[0].function_call"),
    ({"kiki": {"surprise": 1}}, 400, "invalid_request", "kiki.surprise"),
    ({"kiki": {"level": "deep"}}, 400, "invalid_request", "kiki.level"),
    ({"kiki": {"candidates": 9}}, 400, "invalid_request", "kiki.candidates"),
    ({"kiki": {"adapter_scale": 4.1}}, 400, "invalid_request", "kiki.adapter_scale"),
    ({"kiki": {"adapter_scale": -1}}, 400, "invalid_request", "kiki.adapter_scale"),
    ({"kiki": {"candidates": 2}}, 400, "invalid_request", "kiki.candidates"),
    ({"kiki": {"history": "all"}}, 400, "invalid_request", "kiki.history"),
    ({"model": "micro-kiki-fast", "kiki": {"history": "session"}}, 400, "invalid_request", "kiki.history"),  # of which?
    (
        {"kiki": {"history": "session", "level": "raw"}, "metadata": {"session_id": "s-1"}},
        400,
        "invalid_request",
        "kiki.history",
    ),
    ({"temperature": 2.1}, 400, "invalid_request", "temperature"),
    ({"temperature": "hot"}, 400, "invalid_request", "temperature"),
    ({"top_p": -0.1}, 400, "invalid_request", "top_p"),
    ({"top_k": -2}, 400, "invalid_request", "top_k"),
    ({"n": 2, "kiki": {"level": "full"}}, 400, "invalid_request", "n"),
    ({"stop": ["a"] * 17}, 400, "invalid_request", "stop"),
    ({"max_tokens": -2}, 400, "invalid_request", "max_tokens"),
    ({"max_tokens": 4.5}, 400, "invalid_request", "max_tokens"),
    ({"min_p": 1.5}, 400, "invalid_request", "min_p"),
    ({"max_tokens": 0}, 400, "invalid_request", "max_tokens"),
    ({"n": 0}, 400, "invalid_request", "n"),
    ({"n": 9}, 400, "invalid_request", "n"),
    ({"stream": "yes"}, 400, "invalid_request", "stream"),
    ({"stream_options": {"include_usage": True}}, 400, "invalid_request", "stream_options"),
    ({"metadata": {"session_id": "two words"}}, 400, "invalid_request", "metadata.session_id"),
    ({"logprobs": True, "kiki": {"level": "full"}}, 400, "invalid_request", "logprobs"),
    ({"top_logprobs": 2}, 400, "invalid_request", "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, 400, "invalid_request", "top_logprobs"),
    ({"functions": [{"name": "f"}]}, 400, "invalid_request", "functions"),
    ({"response_format": {"type": "xml"}}, 400, "invalid_request", "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, 400, "invalid_request", "response_format.json_schema"),
    (
        {"response_format": {"type": "json_object"}, "kiki": {"level": "full"}},
        400,
        "invalid_request",
        "response_format",
    ),
    ({"presence_penalty": 2.5}, 400, "invalid_request", "presence_penalty"),
    ({"repetition_penalty": 0}, 400, "invalid_request", "repetition_penalty"),
    ({"repetition_penalty": 1e-40}, 400, "invalid_request", "repetition_penalty"),
    ({"repetition_penalty": "nan"}, 400, "invalid_request", "repetition_penalty"),
    ({"temperature": "nan"}, 400, "invalid_request", "temperature"),
    ({"temperature": "inf"}, 400, "invalid_request", "temperature"),
    ({"top_p": "NaN"}, 400, "invalid_request", "top_p"),
    ({"min_p": "nan"}, 400, "invalid_request", "min_p"),
    ({"logit_bias": {"10": "nan"}}, 400, "invalid_request", "logit_bias[...]"),
    ({"kiki": {"adapter_scale": "nan"}}, 400, "invalid_request", "kiki.adapter_scale"),
    ({"logit_bias": {"ten": 1, "-1": 1}}, 400, "invalid_request", "logit_bias"),
    ({"logit_bias": {"\u0663": 1}}, 400, "invalid_request", "logit_bias"),
    ({"seed": 2**63}, 400, "invalid_request", "seed"),
    ({"seed": -(2**63) - 1}, 400, "invalid_request", "seed"),
    (
        {"add_generation_prompt": True, "continue_final_message": True},
        400,
        "invalid_request",
        "continue_final_message",
    ),
    ({"logit_bias": {"10": 101}}, 400, "invalid_request", "logit_bias[...]"),
]


@pytest.mark.parametrize(("fields", "status", "code", "param"), REFUSED, ids=lambda value: str(value)[:40])
async def test_bad_fields_are_refused_by_name(
    http: httpx.AsyncClient, fields: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    reply = await http.post("/v1/chat/completions", json=chat_body(**fields))
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (status, code, param)
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert reply.headers["x-request-id"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": "\xff"}', b"[" * 100_000])
async def test_a_body_that_is_no_json_object_is_refused(http: httpx.AsyncClient, body: bytes) -> None:
    reply = await http.post("/v1/chat/completions", content=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("missing", ["messages"])
async def test_a_missing_field_is_refused_by_name(http: httpx.AsyncClient, missing: str) -> None:
    body: dict[str, Any] = chat_body()
    del body[missing]
    reply = await http.post("/v1/chat/completions", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, missing)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/nothing", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("GET", "/v1/models/gpt-99", 404, "model_not_found"),
        ("GET", "/v1/turns/unheard-of", 404, "turn_not_found"),
        ("GET", "/v1/turns/%3E", 404, "turn_not_found"),
        ("GET", "/v1/turns/*", 404, "turn_not_found"),
    ],
)
async def test_unknown_paths_and_methods_are_refused(
    http: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    reply = await http.request(method, path)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("header", ["X-Session-Id", "Idempotency-Key"])
async def test_headers_with_a_space_are_refused(http: httpx.AsyncClient, header: str) -> None:
    reply = await http.post("/v1/chat/completions", json=chat_body(), headers={header: "two words"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, header)


async def test_neutral_values_pass(http: httpx.AsyncClient, script: Script) -> None:
    neutral: dict[str, Any] = {name: values[-1] for name, values in UNSERVED.items()}
    harmless: dict[str, Any] = {
        "user": "u",
        "metadata": {"a": "b"},
        "prompt_cache_key": "k",
        "safety_identifier": "u",
        "n": None,
    }
    reply = await http.post("/v1/chat/completions", json=chat_body() | neutral | harmless)
    assert reply.status_code == 200, reply.text


def test_every_unserved_field_is_declared() -> None:
    assert set(UNSERVED) < set(ChatRequest.__struct_fields__)


def read_request(**fields: Any) -> Any:
    return read_chat(msgspec.json.encode(chat_body(**fields)), models=MODELS, settings=FacadeSettings())


def test_the_scale_of_adapters_reaches_the_router() -> None:
    scales = [read_request(kiki=kiki).query.adapter_scale for kiki in ({"adapter_scale": 0.5}, {})]
    assert scales == [0.5, None]


def test_decoding_options_reach_the_worker() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    sampling = read_request(
        presence_penalty=0.5,
        frequency_penalty=-1,
        repetition_penalty=1.2,
        logit_bias={"10": -100},
        logprobs=True,
        top_logprobs=2,
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}},
    ).query.sampling
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (0.5, -1.0, 1.2)
    assert sampling.logit_bias == {"10": -100.0}
    assert (sampling.logprobs, sampling.top_logprobs) == (True, 2)
    assert msgspec.json.decode(sampling.json_schema) == schema
    assert read_request(response_format={"type": "text"}).query.sampling.json_schema is None
    assert read_request(response_format={"type": "json_object"}).query.sampling.json_schema == '{"type": "object"}'


def test_defaults_come_from_the_alias_and_then_from_the_facade() -> None:
    quick, creative = "kiki-meta-quick-reply", "kiki-meta-creative"
    assert read_request(model=quick).query.sampling.max_tokens == MODELS[quick].max_tokens
    assert read_request(model=creative).query.sampling.temperature == MODELS[creative].temperature
    assert read_request(model=creative, temperature=0).query.sampling.temperature == 0
    assert read_request().query.sampling.max_tokens == 256
    assert read_request(max_tokens=5).query.sampling.max_tokens == 5
    assert read_request(max_completion_tokens=6).query.sampling.max_tokens == 6


@pytest.mark.parametrize("model", MODELS)
def test_a_request_without_a_temperature_is_greedy_unless_its_model_id_has_one(model: str) -> None:
    assert read_request(model=model).query.sampling.temperature == (MODELS[model].temperature or 0.0)


def test_the_level_of_the_request_wins() -> None:
    assert (read_request(model="micro-kiki").level, read_request(model="micro-kiki").query.level) == ("full", None)
    request = read_request(model="micro-kiki", kiki={"level": "raw"}, n=2)
    assert (request.level, request.query.level, request.query.candidates, request.n) == ("raw", "raw", 2, 2)


def test_reasoning_is_shown_where_the_alias_or_the_request_says_so() -> None:
    assert [read_request(model=name).thinking for name in ("kiki-meta-reasoning", "micro-kiki-base")] == [True, False]
    assert read_request(kiki={"thinking": True}).thinking


def test_system_text_becomes_one_message() -> None:
    messages = [{"role": "developer", "content": "b"}, {"role": "system", "content": "c"}, USER]
    system, user = read_request(system="a", messages=messages).query.messages
    assert (system.role, system.content) == ("system", "a\n\nb\n\nc")
    assert user.content == "hi"


def test_text_parts_are_joined_and_an_echoed_answer_passes() -> None:
    echo = {"role": "assistant", "content": "x", "refusal": None, "tool_calls": None, "reasoning": "y"}
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = read_request(messages=[USER, echo, {"role": "user", "content": parts}]).query.messages
    assert [message.content for message in messages] == ["hi", "x", "a\nb"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"top_p": 0, "temperature": 0.7}, {"top_p": 1.0, "temperature": 0.0}),
        ({"top_p": 0}, {"top_p": 1.0, "temperature": 0.0}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": 5.0}, {"top_k": 5}),
        ({"max_tokens": 4.0}, {"max_tokens": 4}),
        ({"max_tokens": "4"}, {"max_tokens": 4}),
        ({"max_tokens": -1}, {"max_tokens": MAX_TOKENS}),
        ({"max_tokens": 10**7}, {"max_tokens": MAX_TOKENS}),
        ({"max_tokens": 3, "max_completion_tokens": 4}, {"max_tokens": 4}),
        ({"stop": ""}, {"stop": ()}),
        ({"stop": ["", "x"]}, {"stop": ("x",)}),
        ({"stop": [str(number) for number in range(16)]}, {"stop": tuple(map(str, range(16)))}),
        ({"response_format": {"type": "json_object", "schema": {"type": "null"}}}, {"json_schema": '{"type":"null"}'}),
    ],
    ids=str,
)
def test_numbers_are_read_as_peers_read_them(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    sampling = read_request(**fields).query.sampling
    assert {name: getattr(sampling, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("seed", "expected"), [(-1, None), (None, None), (7, 7), (7.0, 7), (-5, 2**63 - 5), (2**63 - 1, 2**63 - 1)]
)
def test_a_seed_is_any_integer_and_minus_one_is_none(seed: Any, expected: int | None) -> None:
    assert read_request(seed=seed).seed == expected


@pytest.mark.parametrize(
    ("fields", "level"),
    [
        ({"reasoning_effort": "none"}, "fast"),
        ({"reasoning_effort": "minimal"}, "fast"),
        ({"reasoning_effort": "low"}, "fast"),
        ({"reasoning_effort": "medium"}, "full"),
        ({"reasoning_effort": "high", "model": "micro-kiki-fast"}, "full"),
        ({"reasoning_effort": "high", "kiki": {"level": "raw"}}, "raw"),
        ({"reasoning_effort": "low", "kiki": {"level": "full"}}, "full"),
        ({"reasoning_effort": "high", "model": "micro-kiki-base"}, "raw"),
        ({"reasoning_effort": "anything"}, "full"),
    ],
    ids=str,
)
def test_effort_chooses_the_level_unless_the_request_names_one(fields: dict[str, Any], level: str) -> None:
    assert read_request(**({"model": "micro-kiki"} | fields)).level == level


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({}, None),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": {"thinking": True}}, True),
        ({"chat_template_kwargs": {"custom": 1}}, None),
        ({"enable_thinking": False}, False),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, True),
        ({"reasoning_effort": "none"}, False),
    ],
    ids=str,
)
def test_switches_of_reasoning_reach_the_worker(fields: dict[str, Any], thinking: bool | None) -> None:
    request = read_request(model="kiki-meta-reasoning", **fields)
    assert (request.query.thinking, request.thinking) == (thinking, thinking is not False)


def test_a_number_in_metadata_is_taken_and_names_a_session() -> None:
    assert read_request(metadata={"a": 1, "session_id": 42}).session == "42"


def test_messages_keep_their_order_and_an_empty_one_stays() -> None:
    sent = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": None},
        {"role": "system", "content": "b"},
        {"role": "user", "content": "x"},
        {"role": "user", "content": "y"},
    ]
    messages = read_request(messages=sent).query.messages
    assert [(message.role, message.content) for message in messages] == [
        ("system", "a"),
        ("user", ""),
        ("assistant", ""),
        ("system", "b"),
        ("user", "x"),
        ("user", "y"),
    ]


@pytest.mark.parametrize("messages", [[{"role": "system", "content": "Be brief."}], [{"role": "user", "content": []}]])
def test_system_text_alone_and_no_text_at_all_are_served(messages: list[dict[str, Any]]) -> None:
    assert len(read_request(messages=messages).query.messages) == 1


def test_an_alias_over_the_cap_is_capped() -> None:
    models = Catalogue({"long": ServedModel(description="y", level="raw", max_tokens=9999)})
    body = msgspec.json.encode(chat_body(model="long"))
    request = read_chat(body, models=models, settings=FacadeSettings(max_tokens_cap=100))
    assert request.query.sampling.max_tokens == 100


def test_settings_refuse_a_bad_tenant() -> None:
    with pytest.raises(KikiError, match="not a name"):
        FacadeSettings(api_keys={"k": "two words"})
