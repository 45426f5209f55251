"""Anthropic's client for Python."""

import anthropic
from harness import (
    BASE,
    DEFAULT,
    FAST,
    HOST,
    KEY,
    QUESTION,
    STORY,
    TOO_LONG,
    cancel_turn,
    check,
    expect,
    finish,
    wait_until_idle,
)
from models import Forecast

client = anthropic.Anthropic(base_url=HOST, api_key=KEY, timeout=60, max_retries=0)
USER = [{"role": "user", "content": QUESTION}]
GREEDY = {"temperature": 0}
"""No parameter of the newest client, though the endpoint has it."""
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
    },
}
ASKED = {
    "model": FAST,
    "max_tokens": 64,
    "extra_body": GREEDY,
    "messages": [{"role": "user", "content": "Weather, Paris?"}],
}


@check("message")
def message():
    reply = client.messages.create(model=DEFAULT, max_tokens=24, system="Be brief.", messages=USER, extra_body=GREEDY)
    assert reply.type == "message"
    assert reply.role == "assistant"
    assert reply.stop_reason == "end_turn"
    assert "Paris" in reply.content[0].text
    assert reply.usage.input_tokens > 0
    assert 0 < reply.usage.output_tokens <= 24


@check("message that is cut")
def cut():
    reply = client.messages.create(model=DEFAULT, max_tokens=8, messages=[{"role": "user", "content": STORY}])
    assert reply.stop_reason == "max_tokens"
    assert reply.usage.output_tokens <= 8


@check("stop sequence")
def stop():
    reply = client.messages.create(model=BASE, max_tokens=24, stop_sequences=[" of"], messages=USER, extra_body=GREEDY)
    assert reply.content[0].text.strip() == "The capital", reply
    assert reply.stop_reason in ("stop_sequence", "end_turn")  # the worker does not say which of them it was


@check("message from a stream")
def stream():
    with client.messages.stream(model=DEFAULT, max_tokens=24, messages=USER, extra_body=GREEDY) as events:
        text = "".join(events.text_stream)
        final = events.get_final_message()
    assert "Paris" in text
    assert final.content[0].text == text
    assert final.stop_reason == "end_turn"
    assert 0 < final.usage.output_tokens <= 24
    raw = client.messages.create(model=FAST, max_tokens=24, messages=USER, extra_body=GREEDY, stream=True)
    kinds = [event.type for event in raw]
    assert kinds[0] == "message_start", kinds
    assert kinds[-1] == "message_stop", kinds


@check("shapes of a conversation")
def shapes():
    parts = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    for more in (
        {"system": parts},
        {"messages": [*USER, {"role": "assistant", "content": "The capital of"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]},
        {"metadata": {"user_id": "ada"}, "extra_body": {"top_k": 5, "top_p": 0.9, "temperature": 1}},
        {"thinking": {"type": "disabled"}, "service_tier": "auto"},
    ):
        reply = client.messages.create(**{"model": BASE, "max_tokens": 8, "messages": USER} | more)
        assert reply.content[0].type == "text", more


@check("forced call")
def forced():
    for choice in ({"type": "any"}, {"type": "tool", "name": "get_weather"}):
        reply = client.messages.create(**ASKED, tools=[WEATHER], tool_choice=choice)
        call = next(block for block in reply.content if block.type == "tool_use")
        assert call.name == "get_weather"
        assert set(call.input) == {"city"}, call
        assert reply.stop_reason == "tool_use"


@check("forced call of a nested model")
def nested():
    tool = {"name": "forecast", "description": "Tell a forecast.", "input_schema": Forecast.model_json_schema()}
    reply = client.messages.create(
        **ASKED | {"model": DEFAULT, "max_tokens": 120},
        tools=[tool],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
    )
    call = next(block for block in reply.content if block.type == "tool_use")
    assert Forecast.model_validate(call.input)


@check("forced call without parameters")
def empty():
    tool = {"name": "ping", "description": "Ping.", "input_schema": {"type": "object"}}
    reply = client.messages.create(**ASKED, tools=[tool], tool_choice={"type": "tool", "name": "ping"})
    assert reply.content[-1].input == {}, reply


@check("parse a nested model")
def parse():
    reply = client.messages.parse(
        model=DEFAULT, max_tokens=120, messages=USER, output_format=Forecast, extra_body=GREEDY
    )
    assert isinstance(reply.parsed_output, Forecast), reply


@check("call from a stream")
def streamed_call():
    with client.messages.stream(**ASKED, tools=[WEATHER], tool_choice={"type": "any"}) as events:
        kinds = {event.delta.type for event in events if event.type == "content_block_delta"}
        final = events.get_final_message()
    assert "input_json_delta" in kinds, kinds
    assert set(final.content[-1].input) == {"city"}


@check("tool loop")
def loop():
    first = client.messages.create(**ASKED, tools=[WEATHER], tool_choice={"type": "any"})
    call = first.content[-1]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "sunny, 20 degrees"}]}
    messages = [
        *ASKED["messages"],
        {"role": "assistant", "content": [block.model_dump() for block in first.content]},
        {"role": "user", "content": [result]},
    ]
    reply = client.messages.create(
        **ASKED | {"messages": messages, "max_tokens": 16}, tools=[WEATHER], tool_choice={"type": "none"}
    )
    assert reply.content[0].text


@check("count tokens")
def count():
    counted = client.messages.count_tokens(model=FAST, messages=USER).input_tokens
    assert counted > 5
    more = client.messages.count_tokens(model=FAST, messages=USER, system="Be brief.", tools=[WEATHER]).input_tokens
    assert more > counted
    reply = client.messages.create(model=BASE, max_tokens=4, messages=USER)
    assert reply.usage.input_tokens == counted


@check("typed errors")
def errors():
    missing = expect(
        anthropic.NotFoundError, lambda: client.messages.create(model="no-such-model", max_tokens=4, messages=USER)
    )
    assert missing.body["type"] == "error", missing.body
    assert missing.body["error"]["type"] == "not_found_error", missing.body
    stranger = client.with_options(api_key="sk-nobody")
    refused = expect(
        anthropic.AuthenticationError, lambda: stranger.messages.create(model=FAST, max_tokens=4, messages=USER)
    )
    assert refused.body["error"]["type"] == "authentication_error", refused.body
    wrong = expect(
        anthropic.BadRequestError,
        lambda: client.messages.create(model=FAST, max_tokens=4, messages=USER, extra_body={"temperature": 9}),
    )
    assert wrong.body["error"]["type"] == "invalid_request_error", wrong.body


@check("prompt too long for a stream")
def context():
    long = [{"role": "user", "content": TOO_LONG}]
    for stream in (False, True):
        error = expect(
            anthropic.BadRequestError,
            lambda stream=stream: client.messages.create(model=FAST, max_tokens=4, messages=long, stream=stream),
        )
        assert "prompt is too long" in str(error), error


@check("error late in a stream")
def late_error():
    events = client.messages.create(
        model=FAST, max_tokens=500, messages=[{"role": "user", "content": STORY}], stream=True
    )
    for _ in range(4):
        next(events)
    cancel_turn()
    error = expect(anthropic.APIError, lambda: list(events))
    assert error.body["type"] == "error", error.body
    wait_until_idle()


@check("closed stream leaves no work")
def closed_stream():
    events = client.messages.create(
        model=FAST, max_tokens=1000, messages=[{"role": "user", "content": STORY}], stream=True
    )
    for _ in range(4):
        next(events)
    events.close()
    wait_until_idle()


finish()
