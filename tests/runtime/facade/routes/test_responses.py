"""The official client's responses against a served facade: created, streamed, continued, read again, refused."""

import json
from typing import Any

import anyio
import httpx
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import FunctionToolParam, Response, ResponseStreamEvent
from pydantic import BaseModel

from schemas.chat import Message, ToolCall
from schemas.errors import StageFailed, Unavailable
from schemas.events import InferToken
from schemas.findings import LikelyToken, TokenLogprob
from tests.runtime.facade.scripted import Script, wait_until

pytestmark = pytest.mark.anyio
ASK = "What is the capital of France?"
FAST = "micro-kiki-fast"
WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}
CALL = ToolCall(id="call_1", name="get_weather", arguments='{"city":"Paris"}')


def client_of(url: str) -> AsyncOpenAI:
    """The client, which holds every reply against its types."""
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, _strict_response_validation=True)


def body_of(**fields: Any) -> dict[str, Any]:
    return {"model": FAST, "input": ASK} | fields


def messages_of(script: Script, turn: int = -1) -> list[Message]:
    return list(script.queries[turn].query.messages)


async def create(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    reply = await http.post("/v1/responses", json=body_of(**fields))
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    return body


async def refuse(http: httpx.AsyncClient, **fields: Any) -> tuple[int, str, str]:
    """The status, code and param with which a body is refused."""
    reply = await http.post("/v1/responses", json=body_of(**fields))
    error = reply.json()["error"]
    assert (error["type"], bool(error["message"])) == ("invalid_request_error", True)
    return reply.status_code, error["code"], error["param"]


async def read_events(http: httpx.AsyncClient, **fields: Any) -> list[dict[str, Any]]:
    """The events of a stream; each has its own name in its data, and its number."""
    async with http.stream("POST", "/v1/responses", json=body_of(stream=True, **fields)) as reply:
        assert reply.status_code == 200, await reply.aread()
        text = (await reply.aread()).decode()
    blocks = [block.split("\n") for block in text.split("\n\n") if block and not block.startswith(":")]
    events = [json.loads(data.removeprefix("data: ")) for _, data in blocks]
    assert [name.removeprefix("event: ") for name, _ in blocks] == [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


async def test_a_plain_answer_reaches_the_official_client(url: str, script: Script) -> None:
    async with client_of(url) as client:
        reply = await client.responses.create(
            model="micro-kiki",
            input=ASK,
            instructions="Be brief.",
            max_output_tokens=9,
            temperature=0.5,
            top_p=0.25,
            metadata={"topic": "capitals"},
            user="ann",
            truncation="auto",
            include=["reasoning.encrypted_content"],
        )
    assert (reply.output_text, reply.status, reply.error, reply.incomplete_details) == (
        "The capital is Paris.",
        "completed",
        None,
        None,
    )
    assert (reply.model, reply.instructions, reply.temperature, reply.top_p) == ("micro-kiki", "Be brief.", 0.5, 0.25)
    assert (reply.metadata, reply.user, reply.tools, reply.tool_choice) == ({"topic": "capitals"}, "ann", [], "auto")
    assert (reply.parallel_tool_calls, reply.max_output_tokens, reply.previous_response_id) == (True, 9, None)
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.usage.total_tokens) == (7, 5, 12)
    query = script.queries[0].query
    assert [(message.role, message.content) for message in query.messages] == [("system", "Be brief."), ("user", ASK)]
    assert (query.sampling.max_tokens, query.level, query.store) == (9, None, True)
    assert script.queries[0].envelope.user == "ann"
    assert reply.id == f"resp_{script.queries[0].envelope.turn_id}"


async def test_a_streamed_answer_has_the_official_events_in_order(http: httpx.AsyncClient, script: Script) -> None:
    script.reasoning = "France."
    script.tokens = (
        InferToken(turn_id="", index=0, text="France.", kind="reasoning"),
        InferToken(turn_id="", index=1, text="The capital "),
        InferToken(turn_id="", index=2, text="is Paris."),
    )
    events = await read_events(http, kiki={"thinking": True})
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert {event["response"]["status"] for event in events[:2]} == {"in_progress"}
    final = events[-1]["response"]
    assert final["output"] == [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [item["type"] for item in final["output"]] == ["reasoning", "message"]
    assert (
        "".join(event["delta"] for event in events if "text.delta" in event["type"]) == "France.The capital is Paris."
    )
    assert (await http.get(f"/v1/responses/{final['id']}")).json() == final


@pytest.mark.parametrize("model", ["micro-kiki", FAST, "micro-kiki-base"])
async def test_the_official_stream_helper_gives_the_final_response(url: str, script: Script, model: str) -> None:
    async with client_of(url) as client:
        async with client.responses.stream(model=model, input=ASK) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
        again = await client.responses.retrieve(final.id)
    assert final.output_text == "The capital is Paris."
    assert kinds[-1] == "response.completed"
    assert again.to_dict() == {name: value for name, value in final.to_dict().items() if name != "output_parsed"} | {
        "output": again.to_dict()["output"]
    }
    assert again.output_text == final.output_text


class Address(BaseModel):
    city: str
    code: int


class Person(BaseModel):
    name: str
    home: Address


async def test_a_nested_model_is_parsed(url: str, script: Script) -> None:
    script.text = '{"name":"Ann","home":{"city":"Paris","code":75001}}'
    async with client_of(url) as client:
        reply = await client.responses.parse(model="micro-kiki", input="Who?", text_format=Person)
    assert reply.output_parsed == Person(name="Ann", home=Address(city="Paris", code=75001))
    query = script.queries[0].query
    assert query.sampling.json_schema is not None
    assert "Address" in json.loads(query.sampling.json_schema)["$defs"]
    assert query.level == "fast"


async def test_a_field_that_no_panel_can_serve_is_named_as_the_client_sent_it(
    http: httpx.AsyncClient, script: Script
) -> None:
    body = body_of(model="micro-kiki", text={"format": {"type": "json_object"}})
    reply = await http.post("/v1/responses", json=body)
    assert reply.headers["x-kiki-degraded"] == "level=fast; field=text.format"
    assert reply.headers["x-turn-id"] in reply.json()["id"]
    assert reply.json()["text"] == {"format": {"type": "json_object"}}


async def test_a_conversation_goes_on_through_its_ids(url: str, script: Script) -> None:
    async with client_of(url) as client:
        first = await client.responses.create(model=FAST, input="I have 21 apples.", instructions="Be brief.")
        second = await client.responses.create(
            model=FAST, input="Double that number.", instructions="Be polite.", previous_response_id=first.id
        )
        branch = await client.responses.create(model=FAST, input="Halve it.", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert [(message.role, message.content) for message in messages_of(script, 1)] == [
        ("system", "Be polite."),
        ("user", "I have 21 apples."),
        ("assistant", "The capital is Paris."),
        ("user", "Double that number."),
    ]
    assert [(message.role, message.content) for message in messages_of(script, 2)] == [
        ("user", "I have 21 apples."),
        ("assistant", "The capital is Paris."),
        ("user", "Halve it."),
    ]
    assert branch.instructions is None
    assert len({query.envelope.session_id for query in script.queries}) == 1
    assert len({query.envelope.turn_id for query in script.queries}) == 3


async def test_system_text_of_the_input_goes_on_where_instructions_do_not(
    http: httpx.AsyncClient, script: Script
) -> None:
    items = [{"role": "developer", "content": "Speak French."}, {"role": "user", "content": ASK}]
    first = await create(http, input=items, instructions="Be brief.")
    assert messages_of(script)[0].content == "Be brief.\n\nSpeak French."
    await create(http, input="And of Spain?", previous_response_id=first["id"])
    assert [(message.role, message.content) for message in messages_of(script)][:2] == [
        ("system", "Speak French."),
        ("user", ASK),
    ]


async def test_calls_are_answered_through_the_id(url: str, script: Script) -> None:
    script.tool_calls, script.text, script.tokens = (CALL,), "", ()
    async with client_of(url) as client:
        first = await client.responses.create(model="micro-kiki", input="Weather in Paris?", tools=[WEATHER])
        (call,) = first.output
        assert call.type == "function_call"
        assert (call.call_id, call.name, call.arguments, call.status) == (
            "call_1",
            "get_weather",
            '{"city":"Paris"}',
            "completed",
        )
        script.tool_calls, script.text = (), "Sunny."
        second = await client.responses.create(
            model="micro-kiki",
            previous_response_id=first.id,
            input=[{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}],
            tools=[WEATHER],
        )
        items = await client.responses.input_items.list(second.id, order="asc")
    assert second.output_text == "Sunny."
    question, calling, answer = messages_of(script)
    assert (question.content, calling.tool_calls, answer.role) == ("Weather in Paris?", (CALL,), "tool")
    assert (answer.content, answer.tool_call_id, answer.name) == ("sunny", "call_1", "get_weather")
    assert [item.type for item in items.data] == ["message", "function_call", "function_call_output"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_custom_tool_takes_a_text(http: httpx.AsyncClient, script: Script, stream: bool) -> None:
    script.tool_calls = (ToolCall(id="call_2", name="run", arguments='{"input":"print(1)"}'),)
    script.text, script.tokens = "", ()
    tools = [{"type": "custom", "name": "run", "description": "Runs code."}]
    if stream:
        events = await read_events(http, tools=tools)
        assert [event["type"].removeprefix("response.") for event in events][2:] == [
            "output_item.added",
            "custom_tool_call_input.delta",
            "custom_tool_call_input.done",
            "output_item.done",
            "completed",
        ]
        reply = events[-1]["response"]
    else:
        reply = await create(http, tools=tools)
    (call,) = reply["output"]
    assert (call["type"], call["call_id"], call["input"]) == ("custom_tool_call", "call_2", "print(1)")

    script.tool_calls, script.text = (), "1"
    answer = {"type": "custom_tool_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "1"}]}
    await create(http, input=[{"role": "user", "content": "Run."}, call, answer], tools=tools)
    assert [(message.role, message.content) for message in messages_of(script)] == [
        ("user", "Run."),
        ("assistant", ""),
        ("tool", "1"),
    ]
    assert json.loads(messages_of(script)[1].tool_calls[0].arguments) == {"input": "print(1)"}


async def test_streamed_calls_have_their_events(http: httpx.AsyncClient, script: Script) -> None:
    second = ToolCall(id="call_9", name="get_weather", arguments='{"city":"Rome"}')
    script.tool_calls, script.text, script.tokens = (CALL, second), "Let me look.", ("Let me look.",)
    events = await read_events(http, tools=[WEATHER])
    assert [event["type"].removeprefix("response.") for event in events][6:] == [
        "content_part.done",
        "output_item.done",
        *(
            2
            * ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]
        ),
        "completed",
    ]
    final = events[-1]["response"]
    assert [item["type"] for item in final["output"]] == ["message", "function_call", "function_call"]
    assert [item["arguments"] for item in final["output"][1:]] == [CALL.arguments, second.arguments]
    assert (await http.get(f"/v1/responses/{final['id']}")).json() == final


async def test_an_answer_that_was_cut_is_incomplete(http: httpx.AsyncClient, script: Script) -> None:
    script.finish_reason = "length"
    plain = await create(http)
    assert (plain["status"], plain["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert plain["output"][0]["status"] == "incomplete"
    events = await read_events(http)
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize("stream", [False, True])
async def test_probabilities_come_when_they_are_asked_for(
    http: httpx.AsyncClient, script: Script, stream: bool
) -> None:
    token = TokenLogprob(token="Paris", logprob=-0.5, top=(LikelyToken(token="Rome", logprob=-1.5),))
    script.text, script.logprobs, script.finish_reason = "Paris", (token,), "stop"
    script.tokens = (InferToken(turn_id="", index=0, text="Paris", tokens=(token,)),)
    expected = [
        {
            "token": "Paris",
            "bytes": list(b"Paris"),
            "logprob": -0.5,
            "top_logprobs": [{"token": "Rome", "bytes": list(b"Rome"), "logprob": -1.5}],
        }
    ]
    fields = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    if stream:
        events = await read_events(http, **fields)
        by_type = {event["type"]: event for event in events}
        assert by_type["response.output_text.delta"]["logprobs"] == expected
        assert by_type["response.output_text.done"]["logprobs"] == expected
        reply = events[-1]["response"]
    else:
        reply = await create(http, **fields)
    assert reply["output"][0]["content"][0]["logprobs"] == expected
    assert script.queries[0].query.sampling.top_logprobs == 1


async def test_an_error_in_a_stream_is_raised_and_said(url: str, http: httpx.AsyncClient, script: Script) -> None:
    script.fail_late = StageFailed("the model broke.")
    events = await read_events(http)
    error, failed = events[-2:]
    assert (error["type"], error["code"], error["message"]) == ("error", "inference_failed", "the model broke.")
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"]["code"] == "server_error"
    assert failed["response"]["output"][0]["content"][0]["text"] == "The capital is Paris."
    async with client_of(url) as client:
        stream = await client.responses.create(model=FAST, input=ASK, stream=True)
        with pytest.raises(openai.APIError, match="the model broke") as raised:
            [event async for event in stream]
    assert raised.value.code == "inference_failed"


async def test_a_turn_that_fails_before_its_stream_is_an_http_error(http: httpx.AsyncClient, script: Script) -> None:
    script.fail = StageFailed("it is too long.", code="context_length_exceeded", param="messages")
    for stream in (False, True):
        assert await refuse(http, stream=stream) == (400, "context_length_exceeded", "input")
    turn_id = script.queries[0].envelope.turn_id
    again = (await http.get(f"/v1/responses/resp_{turn_id}")).json()
    assert (again["status"], again["error"]["code"]) == ("failed", "context_length_exceeded")
    assert again["output"] == []


async def test_a_response_that_runs_is_shown_and_cancelled(http: httpx.AsyncClient, script: Script) -> None:
    script.silent = True
    replies: list[httpx.Response] = []

    async def ask() -> None:
        replies.append(await http.post("/v1/responses", json=body_of(metadata={"a": "b"})))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await script.query_arrived.wait()
        path = f"/v1/responses/resp_{script.queries[0].envelope.turn_id}"
        running = (await http.get(path)).json()
        assert (running["status"], running["output"], running["metadata"]) == ("in_progress", [], {"a": "b"})
        assert (await http.delete(path)).json()["error"]["param"] == "id"
        previous = await http.post("/v1/responses", json=body_of(previous_response_id=path.rsplit("/", 1)[1]))
        assert (previous.status_code, previous.json()["error"]["param"]) == (400, "previous_response_id")
        cancelled = await http.post(f"{path}/cancel")
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert replies[0].json()["error"]["code"] == "cancelled"
    assert (await http.get(path)).json()["status"] == "cancelled"
    await wait_until(lambda: bool(script.cancellations))


async def test_a_response_that_ended_cannot_be_cancelled(http: httpx.AsyncClient, script: Script) -> None:
    reply = await create(http)
    refusal = await http.post(f"/v1/responses/{reply['id']}/cancel")
    assert (refusal.status_code, refusal.json()["error"]["param"]) == (400, "id")


async def test_unknown_and_unstored_responses_are_not_found(http: httpx.AsyncClient, script: Script) -> None:
    secret = await create(http, store=False)
    assert secret["store"] is False
    assert not script.queries[0].query.store
    chat = await http.post("/v1/chat/completions", json={"model": FAST, "messages": [{"role": "user", "content": ASK}]})
    ids = (secret["id"], "resp_unknown", f"resp_{chat.headers['x-turn-id']}", "nonsense", "resp_", "resp_a.b", "resp_*")
    for response_id in ids:
        path = f"/v1/responses/{response_id}"
        for method, tail in (("GET", ""), ("GET", "/input_items"), ("DELETE", ""), ("POST", "/cancel")):
            reply = await http.request(method, path + tail)
            error = reply.json()["error"]
            assert (reply.status_code, error["code"], error["param"]) == (404, "response_not_found", "id"), path
            assert error["type"] == "invalid_request_error"
        expected = (404, "previous_response_not_found", "previous_response_id")
        assert await refuse(http, previous_response_id=response_id) == expected


@pytest.mark.parametrize(
    ("owner", "other"),
    [({"X-User-Id": "ann"}, {"X-User-Id": "bob"}), ({"X-User-Id": "ann"}, {}), ({}, {"X-User-Id": "ann"})],
)
async def test_a_response_is_its_users_alone(
    http: httpx.AsyncClient, script: Script, owner: dict[str, str], other: dict[str, str]
) -> None:
    reply = (await http.post("/v1/responses", json=body_of(), headers=owner)).json()
    path, unknown = f"/v1/responses/{reply['id']}", "/v1/responses/resp_unknown"
    assert (await http.get(path, headers=owner)).json() == reply
    for method, tail in (("GET", ""), ("GET", "/input_items"), ("DELETE", ""), ("POST", "/cancel")):
        foreign = await http.request(method, path + tail, headers=other)
        missing = await http.request(method, unknown + tail, headers=other)
        assert foreign.status_code == missing.status_code == 404
        assert foreign.text == missing.text.replace("resp_unknown", reply["id"])
    body = body_of(previous_response_id=reply["id"])
    assert (await http.post("/v1/responses", json=body, headers=other)).status_code == 404
    item = body_of(input=[{"type": "item_reference", "id": reply["output"][0]["id"]}])
    assert (await http.post("/v1/responses", json=item, headers=other)).status_code == 404
    assert len(script.queries) == 1


async def test_the_user_may_stand_in_the_body_and_in_the_query(http: httpx.AsyncClient, script: Script) -> None:
    reply = await create(http, user="ann")
    assert (await http.get(f"/v1/responses/{reply['id']}", params={"user": "ann"})).json() == reply
    await create(http, user="ann", previous_response_id=reply["id"])
    assert script.queries[1].envelope.session_id == script.queries[0].envelope.session_id


async def test_references_stand_for_the_items_of_earlier_responses(http: httpx.AsyncClient, script: Script) -> None:
    script.reasoning = "France."
    first = await create(http, kiki={"thinking": True})
    thought, message = first["output"]
    asked = (await http.get(f"/v1/responses/{first['id']}/input_items")).json()["data"][0]
    items = [{"id": asked["id"]}, *({"type": "item_reference", "id": each["id"]} for each in (thought, message))]
    await create(http, input=[*items, {"role": "user", "content": "And of Spain?"}])
    assert [(each.role, each.content) for each in messages_of(script)] == [
        ("user", ASK),
        ("assistant", "The capital is Paris."),
        ("user", "And of Spain?"),
    ]
    for name in ("msg_unknown_0", "msg", "", f"{message['id']}0"):
        refusal = await refuse(http, input=[{"type": "item_reference", "id": name}])
        assert refusal == (404, "response_not_found", "input[0].id")


async def test_input_items_are_listed_in_pages(http: httpx.AsyncClient, script: Script) -> None:
    texts = [f"text {number}" for number in range(5)]
    reply = await create(http, input=[{"role": "user", "content": text} for text in texts], instructions="Be brief.")
    path = f"/v1/responses/{reply['id']}/input_items"
    seen: list[str] = []
    params: dict[str, Any] = {"order": "asc", "limit": 2}
    while True:
        page = (await http.get(path, params=params)).json()
        seen += [item["content"][0]["text"] for item in page["data"]]
        assert (page["object"], page["last_id"]) == ("list", page["data"][-1]["id"])
        if not page["has_more"]:
            break
        params["after"] = page["last_id"]
    assert seen == texts
    newest_first = (await http.get(path)).json()["data"]
    assert [item["content"][0]["text"] for item in newest_first] == texts[::-1]
    for wrong in ({"limit": 0}, {"limit": 101}, {"order": "up"}, {"after": "nonsense"}):
        refusal = await http.get(path, params=wrong)
        assert (refusal.status_code, refusal.json()["error"]["param"]) == (400, next(iter(wrong)))


async def test_the_same_key_gets_the_same_response(http: httpx.AsyncClient, script: Script) -> None:
    headers = {"Idempotency-Key": "key-of-a-response"}
    first, again = [await http.post("/v1/responses", json=body_of(), headers=headers) for _ in range(2)]
    assert first.json() == again.json()
    other = await http.post("/v1/responses", json=body_of(metadata={"a": "b"}), headers=headers)
    assert other.status_code == 422
    assert len(script.queries) == 1


async def test_a_retry_is_said_to_be_worth_it(http: httpx.AsyncClient, script: Script) -> None:
    script.fail = Unavailable("the worker is away.")
    reply = await http.post("/v1/responses", json=body_of())
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    turn_id = script.queries[0].envelope.turn_id
    assert (await http.get(f"/v1/responses/resp_{turn_id}")).json()["error"]["code"] == "server_error"


async def test_every_event_and_item_follows_the_official_types(url: str, script: Script) -> None:
    script.reasoning, script.tool_calls, script.finish_reason = "Hm.", (CALL,), "tool_calls"
    script.tokens = (InferToken(turn_id="", index=0, text="Hm.", kind="reasoning"),)
    async with client_of(url) as client:
        stream = await client.responses.create(
            model=FAST,
            input=ASK,
            stream=True,
            tools=[WEATHER],
            reasoning={"effort": "low", "summary": "auto"},
            extra_body={"kiki": {"thinking": True}},
        )
        events: list[ResponseStreamEvent] = [event async for event in stream]
        final = events[-1]
        assert final.type == "response.completed"
        assert isinstance(await client.responses.retrieve(final.response.id), Response)
    assert [item.type for item in final.response.output] == ["reasoning", "message", "function_call"]
    assert final.response.reasoning is not None
    assert final.response.reasoning.effort == "low"
    assert script.queries[0].query.level == "fast"
