"""``/v1/messages`` over HTTP: the shapes of a message, of its events, of errors, and of counted tokens."""

import json
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import anyio
import httpx
import pytest

from bus.agent import Endpoint
from bus.connection import Bus
from bus.testing import run_agents
from schemas.calls import COUNT
from schemas.chat import ToolCall
from schemas.errors import InvalidInput, KikiError, StageFailed, Unavailable
from schemas.events import InferToken
from schemas.status import StatusReply
from schemas.tokens import CountReply, CountRequest
from tests.runtime.facade.scripted import Script

pytestmark = pytest.mark.anyio
WEATHER = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
CALL = ToolCall(id="call_1", name="weather", arguments='{"city": "Paris"}')
USAGE = {
    "input_tokens": 7,
    "output_tokens": 5,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
}


def messages_body(**fields: Any) -> dict[str, Any]:
    return {
        "model": "micro-kiki-fast",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
    } | fields


async def create(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    reply = await http.post("/v1/messages", json=messages_body(**fields), headers={"x-api-key": "none"})
    assert reply.status_code == 200, reply.text
    message: dict[str, Any] = reply.json()
    return message


async def stream(http: httpx.AsyncClient, **fields: Any) -> list[dict[str, Any]]:
    reply = await http.post("/v1/messages", json=messages_body(stream=True, **fields))
    assert reply.status_code == 200, reply.text
    return list(read_events(reply.text))


def read_events(text: str) -> Iterator[dict[str, Any]]:
    """The events of a stream; each has its type as its name."""
    for part in text.strip().split("\n\n"):
        name, data = part.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        yield event


def put_together(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks that the events build, as a client builds them."""
    blocks: list[dict[str, Any]] = []
    for event in events:
        match event:
            case {"type": "content_block_start", "index": index, "content_block": block}:
                assert index == len(blocks)
                blocks.append(dict(block) | {"open": True})
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                assert blocks[index]["open"]
                field = {"input_json_delta": "partial_json"}.get(delta["type"], delta["type"].removesuffix("_delta"))
                target = "json" if field == "partial_json" else field
                blocks[index][target] = blocks[index].get(target, "") + delta[field]
            case {"type": "content_block_stop", "index": index}:
                assert blocks[index].pop("open")
    assert not any("open" in block for block in blocks)
    for block in blocks:
        if block["type"] == "tool_use":
            assert block["input"] == {}
            block["input"] = json.loads(block.pop("json"))
    return blocks


async def test_an_answer_is_a_message(http: httpx.AsyncClient, script: Script) -> None:
    message = await create(http)
    assert message.pop("kiki")["usage"]["total_tokens"] == 120
    assert message == {
        "id": f"msg_{script.queries[0].envelope.turn_id}",
        "type": "message",
        "role": "assistant",
        "model": "micro-kiki-fast",
        "content": [{"type": "text", "text": "The capital is Paris."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": USAGE,
    }


async def test_a_stream_begins_and_ends_as_a_message(http: httpx.AsyncClient, script: Script) -> None:
    events = await stream(http)
    assert [event["type"] for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start = events[0]["message"]
    assert (start["id"], start["content"], start["stop_reason"]) == (
        f"msg_{script.queries[0].envelope.turn_id}",
        [],
        None,
    )
    assert start["usage"] == USAGE | {"output_tokens": 0}
    assert put_together(events) == [{"type": "text", "text": "The capital is Paris."}]
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert events[-2]["usage"] == USAGE


async def test_tokens_are_shown_while_they_come(http: httpx.AsyncClient, script: Script) -> None:
    script.before_answer = anyio.Event()
    async with http.stream("POST", "/v1/messages", json=messages_body(stream=True)) as reply:
        text = ""
        async for line in reply.aiter_lines():
            text += line
            if "is Paris." in text:
                script.before_answer.set()  # without live tokens this line is never reached
    assert "message_stop" in text


@pytest.mark.parametrize(
    ("finish_reason", "stop_reason"), [("stop", "end_turn"), ("length", "max_tokens"), ("tool_calls", "tool_use")]
)
async def test_a_stop_has_its_reason(
    http: httpx.AsyncClient, script: Script, finish_reason: Any, stop_reason: str
) -> None:
    script.finish_reason = finish_reason
    assert (await create(http))["stop_reason"] == stop_reason
    assert (await stream(http))[-2]["delta"]["stop_reason"] == stop_reason


@pytest.mark.parametrize("text", ["", "Let me see."])
async def test_a_call_is_a_block_with_its_input(http: httpx.AsyncClient, script: Script, text: str) -> None:
    script.text, script.tokens, script.tool_calls = text, (text,), (CALL, CALL)
    call = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Paris"}}
    blocks = [{"type": "text", "text": text}, call, call] if text else [call, call]
    message = await create(http, tools=[WEATHER])
    assert (message["content"], message["stop_reason"]) == (blocks, "tool_use")
    events = await stream(http, tools=[WEATHER])
    assert put_together(events) == blocks
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


async def test_an_empty_answer_has_an_empty_text(http: httpx.AsyncClient, script: Script) -> None:
    script.text, script.tokens = "", ()
    assert (await create(http))["content"] == [{"type": "text", "text": ""}]
    assert put_together(await stream(http)) == [{"type": "text", "text": ""}]


async def test_reasoning_is_a_block_before_the_text(http: httpx.AsyncClient, script: Script) -> None:
    script.reasoning = "France, hence Paris."
    script.tokens = (
        InferToken(turn_id="", index=0, text="France, hence", kind="reasoning"),
        InferToken(turn_id="", index=1, text="The capital "),
    )
    text = {"type": "text", "text": "The capital is Paris."}
    blocks = [{"type": "thinking", "thinking": "France, hence Paris.", "signature": ""}, text]
    thinking = {"type": "enabled", "budget_tokens": 1024}
    assert (await create(http, thinking=thinking))["content"] == blocks
    script.tokens = (
        InferToken(turn_id="", index=0, text="France, hence Paris.", kind="reasoning"),
        InferToken(turn_id="", index=1, text="The capital "),
    )
    assert put_together(await stream(http, thinking=thinking)) == blocks
    assert (await create(http))["content"] == [text]
    assert put_together(await stream(http)) == [text]


async def test_a_conversation_goes_on_in_its_session(http: httpx.AsyncClient, script: Script) -> None:
    await create(http, metadata={"user_id": "ann", "session_id": "s-1"})
    envelope = script.queries[0].envelope
    assert (envelope.user, envelope.session_id) == ("ann", "s-1")


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidInput("too long.", code="context_length_exceeded"), 400, "invalid_request_error"),
        (StageFailed("it broke."), 500, "api_error"),
        (Unavailable("away."), 503, "overloaded_error"),
        (KikiError("late.", code="deadline_exceeded"), 504, "timeout_error"),
    ],
)
@pytest.mark.parametrize("streams", [True, False])
async def test_an_error_has_its_type(
    http: httpx.AsyncClient, script: Script, error: KikiError, status: int, kind: str, streams: bool
) -> None:
    script.fail = error
    reply = await http.post("/v1/messages", json=messages_body(stream=streams))
    body = reply.json()
    assert (reply.status_code, body["type"]) == (status, "error")
    assert body["error"] == {"type": kind, "message": error.message}
    assert body["request_id"] == reply.headers["x-request-id"]


async def test_an_error_within_a_stream_is_an_event(http: httpx.AsyncClient, script: Script) -> None:
    script.fail_late = StageFailed("the model broke.")
    events = await stream(http)
    assert events[-1]["error"] == {"type": "api_error", "message": "the model broke."}
    assert events[-1]["request_id"]
    assert "message_stop" not in {event["type"] for event in events}


class CountingAgent:
    """Counts as the worker does, but words, and ten tokens for each tool."""

    name = "counting"

    def __init__(self) -> None:
        self.requests: list[CountRequest] = []

    def open(self, bus: Bus) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    def handlers(self) -> tuple[()]:
        return ()

    def endpoints(self) -> tuple[Endpoint]:
        async def count(request: CountRequest) -> CountReply:
            self.requests.append(request)
            tools = 0 if request.tooling is None else len(request.tooling.tools)
            return CountReply(tokens=sum(len(m.content.split()) for m in request.messages) + 10 * tools)

        return (Endpoint(COUNT, count),)

    def status(self) -> StatusReply:
        return StatusReply(agent=self.name, ready=True)


async def count(http: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    body = messages_body(**fields)
    del body["max_tokens"]
    return await http.post("/v1/messages/count_tokens", json=body)


async def test_the_worker_counts_the_tokens_of_a_prompt(http: httpx.AsyncClient, bus: Bus, script: Script) -> None:
    agent = CountingAgent()
    async with run_agents(bus, agent):
        assert (await count(http)).json() == {"input_tokens": 6}
        assert (await count(http, system="Be brief.", tools=[WEATHER])).json() == {"input_tokens": 18}
        assert (await count(http, thinking={"type": "enabled", "budget_tokens": 1024})).status_code == 200
        assert [request.thinking for request in agent.requests] == [False, False, True]
        refusal = await count(http, model="gpt-99")
    assert (refusal.status_code, refusal.json()["error"]["type"]) == (404, "not_found_error")
    assert script.queries == []


async def test_without_a_worker_nothing_is_counted(http: httpx.AsyncClient, script: Script) -> None:
    reply = await count(http)
    assert (reply.status_code, reply.json()["error"]["type"]) == (503, "overloaded_error")
