"""The official client against a served facade: plain, streamed, refused."""

import json
from typing import Any

import anyio
import httpx
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from bus.connection import Bus, LiveMessage
from schemas.errors import InvalidInput, KikiError, StageFailed, Unavailable
from schemas.events import InferToken, QueryReceived
from schemas.findings import AdapterUse, TokenLogprob
from tests.runtime.facade.scripted import Script, chat_body, wait_until

pytestmark = pytest.mark.anyio
ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]


def client_of(url: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


async def test_a_plain_answer_reaches_the_official_client(url: str, script: Script) -> None:
    async with client_of(url) as client:
        reply = await client.chat.completions.create(model="micro-kiki", messages=ASK, max_tokens=9, stop="X")
    assert reply.choices[0].message.content == "The capital is Paris."
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.total_tokens == 12
    assert reply.model == "micro-kiki"
    query = script.queries[0].query
    assert (query.sampling.max_tokens, query.sampling.stop, query.level) == (9, ("X",), None)
    assert query.sampling.seed > 0


@pytest.mark.parametrize("model", ["micro-kiki", "micro-kiki-fast", "micro-kiki-base"])
async def test_a_streamed_answer_reaches_the_official_client(url: str, script: Script, model: str) -> None:
    async with client_of(url) as client:
        stream = await client.chat.completions.create(
            model=model, messages=ASK, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "The capital is Paris."
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 12
    assert len({chunk.id for chunk in chunks}) == 1


async def test_an_unknown_model_is_refused(url: str, script: Script) -> None:
    async with client_of(url) as client:
        with pytest.raises(openai.NotFoundError) as refusal:
            await client.chat.completions.create(model="gpt-99", messages=ASK)
    assert (refusal.value.code, refusal.value.param) == ("model_not_found", "model")
    assert script.queries == []


async def test_a_failed_turn_has_its_code(url: str, script: Script) -> None:
    script.fail = StageFailed("the prompt is too long.", code="context_length_exceeded")
    async with client_of(url) as client:
        with pytest.raises(openai.BadRequestError) as refusal:
            await client.chat.completions.create(model="micro-kiki", messages=ASK)
    assert refusal.value.code == "context_length_exceeded"


async def test_a_turn_that_fails_while_it_streams(url: str, script: Script) -> None:
    script.fail_late = StageFailed("the model broke.")
    async with client_of(url) as client:
        stream = await client.chat.completions.create(model="micro-kiki-fast", messages=ASK, stream=True)
        with pytest.raises(openai.APIError, match="the model broke") as refusal:
            [chunk async for chunk in stream]
    assert refusal.value.code == "inference_failed"


async def test_tokens_arrive_before_the_answer(http: httpx.AsyncClient, script: Script) -> None:
    script.before_answer = anyio.Event()
    async with http.stream("POST", "/v1/chat/completions", json=chat_body(stream=True)) as reply:
        text = ""
        async for line in reply.aiter_lines():
            text += line
            if "is Paris." in text:
                script.before_answer.set()  # without live tokens this line is never reached
    assert text.endswith("data: [DONE]")


async def test_the_stages_are_comments_where_a_client_asks_for_them(http: httpx.AsyncClient, script: Script) -> None:
    body = chat_body(model="micro-kiki", stream=True, kiki={"progress": True})
    reply = await http.post("/v1/chat/completions", json=body)
    assert comments_in(reply.text) == [": stage router 41 ms", ": stage memory 41 ms", ": stage inference 41 ms"]
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["x-turn-id"] == script.queries[0].envelope.turn_id


async def test_a_worker_that_starts_again_does_not_repeat_itself(http: httpx.AsyncClient, script: Script) -> None:
    script.tokens = (
        InferToken(turn_id="", index=0, text="The capital "),
        InferToken(turn_id="", index=0, text="The ", attempt=2),
        InferToken(turn_id="", index=1, text="capital is", attempt=2),
        InferToken(turn_id="", index=2, text=" Paris.", attempt=2),
    )
    reply = await http.post("/v1/chat/completions", json=chat_body(stream=True))
    assert "".join(deltas(reply.text)) == "The capital is Paris."
    assert reply.text.endswith("data: [DONE]\n\n")


async def test_a_worker_that_changes_its_mind_is_an_error(http: httpx.AsyncClient, script: Script) -> None:
    script.tokens = (InferToken(turn_id="", index=0, text="It is Lyon"),)
    reply = await http.post("/v1/chat/completions", json=chat_body(stream=True))
    assert "differs from what was already sent" in reply.text
    assert "[DONE]" not in reply.text


async def test_reasoning_is_apart_from_the_answer(http: httpx.AsyncClient, script: Script) -> None:
    script.reasoning = "France, hence Paris."
    script.tokens = (
        InferToken(turn_id="", index=0, text="France, hence", kind="reasoning"),
        InferToken(turn_id="", index=1, text="The capital "),
    )
    thinking = {"kiki": {"thinking": True}}
    stream_reply = await http.post("/v1/chat/completions", json=chat_body(stream=True, **thinking))
    assert "".join(deltas(stream_reply.text, "reasoning")) == "France, hence Paris."
    assert "".join(deltas(stream_reply.text)) == "The capital is Paris."
    plain = (await http.post("/v1/chat/completions", json=chat_body(**thinking))).json()
    assert plain["choices"][0]["message"]["reasoning"] == "France, hence Paris."
    for stream in (True, False):
        reply = await http.post("/v1/chat/completions", json=chat_body(stream=stream))
        assert "hence" not in reply.text
        assert "Paris." in reply.text


@pytest.mark.parametrize("stream", [True, False])
async def test_raw_gives_n_choices(http: httpx.AsyncClient, script: Script, stream: bool) -> None:
    script.candidates = ("The capital is Paris.", "Paris.", "It is Paris.")
    reply = await http.post("/v1/chat/completions", json=chat_body(n=3, stream=stream, temperature=1))
    assert script.queries[0].query.candidates == 3
    if not stream:
        assert [choice["message"]["content"] for choice in reply.json()["choices"]] == list(script.candidates)
        return
    assert ["".join(deltas(reply.text, index=index)) for index in range(3)] == list(script.candidates)


async def test_the_account_of_a_turn_names_session_domains_and_stages(
    http: httpx.AsyncClient, script: Script, bus: Bus
) -> None:
    reply = await http.post(
        "/v1/chat/completions",
        json=chat_body(kiki={"level": "full", "candidates": 3, "trace": True}),
        headers={"X-Session-Id": "s-1", "x-request-id": "r-1"},
    )
    account = reply.json()["kiki"]
    assert account["turn_id"] == reply.headers["x-turn-id"]
    assert (account["level"], account["session_id"], account["outcome"]) == ("full", "s-1", "passed")
    assert account["domains"] == [{"name": "python", "score": 0.75}]
    assert account["stages"][0] == {"stage": "router", "ms": 41.0, "compute_ms": 30.0, "attempt": 1}
    assert reply.headers["x-request-id"] == "r-1"
    assert script.queries[0].query.candidates == 3
    plain = (await http.post("/v1/chat/completions", json=chat_body())).json()["kiki"]
    assert set(plain) == {"usage"}


@pytest.mark.parametrize("named_by", ["header", "metadata"])
async def test_a_named_session_may_be_asked_to_go_on(http: httpx.AsyncClient, script: Script, named_by: str) -> None:
    headers = {"X-Session-Id": "s-1"} if named_by == "header" else {}
    fields = {} if headers else {"metadata": {"session_id": "s-1"}}
    body = chat_body(model="micro-kiki-fast", kiki={"history": "session", "trace": True}, **fields)
    reply = await http.post("/v1/chat/completions", json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    (query,) = script.queries
    assert (query.query.history, query.envelope.session_id) == ("session", "s-1")
    assert reply.json()["kiki"]["history"] == []
    await http.post("/v1/chat/completions", json=chat_body())
    assert script.queries[1].query.history == "none"


async def test_the_events_of_a_turn_are_shown_in_order(http: httpx.AsyncClient, script: Script) -> None:
    turn_id = (await http.post("/v1/chat/completions", json=chat_body())).headers["x-turn-id"]
    story = (await http.get(f"/v1/turns/{turn_id}")).json()
    assert [event["subject"] for event in story["events"]] == [
        "query.received",
        "query.routed",
        "recall.done",
        "answer.ready",
        "answer.taken",
    ]
    assert "embedding" not in story["events"][1]["event"]["route"]


async def test_a_stream_has_no_comments_unless_asked(http: httpx.AsyncClient, script: Script) -> None:
    script.fail_late = StageFailed("the model broke.")
    reply = await http.post("/v1/chat/completions", json=chat_body(model="micro-kiki", stream=True))
    assert comments_in(reply.text) == []
    assert reply.text.rstrip().splitlines()[-1].startswith('data: {"error"')


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidInput("it is too long.", code="context_length_exceeded", param="messages"), 400),
        (InvalidInput("the schema has no end.", param="response_format"), 400),
        (Unavailable("the worker is away."), 503),
    ],
)
async def test_a_refusal_of_a_stage_comes_before_the_stream(
    http: httpx.AsyncClient, script: Script, error: KikiError, status: int
) -> None:
    script.fail = error
    reply = await http.post("/v1/chat/completions", json=chat_body(stream=True))
    assert reply.status_code == status
    body = reply.json()["error"]
    assert (body["message"], body["code"], body["param"]) == (error.message, error.code, error.param)


async def test_a_stream_waits_until_the_worker_has_accepted_the_turn(url: str, script: Script) -> None:
    script.before_begin, script.before_answer = anyio.Event(), anyio.Event()
    started = anyio.Event()

    async def read() -> None:
        async with (
            httpx.AsyncClient(base_url=url, timeout=20) as client,
            client.stream("POST", "/v1/chat/completions", json=chat_body(stream=True)),
        ):
            started.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await script.query_arrived.wait()
        await anyio.sleep(0.3)
        assert not started.is_set()
        script.before_begin.set()
        with anyio.fail_after(10):
            await started.wait()
        script.before_answer.set()


async def test_usage_is_the_answers_own_and_the_turns_stands_beside_it(http: httpx.AsyncClient, script: Script) -> None:
    plain = (await http.post("/v1/chat/completions", json=chat_body(model="micro-kiki"))).json()
    assert plain["usage"] == {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    assert plain["kiki"]["usage"] == {"prompt_tokens": 70, "completion_tokens": 50, "total_tokens": 120}
    body = chat_body(stream=True, stream_options={"include_usage": True})
    last = events_in((await http.post("/v1/chat/completions", json=body)).text)[-1]
    assert (last["usage"], last["kiki"]["usage"]) == (plain["usage"], plain["kiki"]["usage"])


@pytest.mark.parametrize("fields", [{}, {"logprobs": True}, {"n": 2}], ids=str)
async def test_no_chunk_has_an_empty_text(http: httpx.AsyncClient, script: Script, fields: dict[str, Any]) -> None:
    script.candidates = ("The capital is Paris.", "Paris.") if "n" in fields else None
    script.logprobs = (TokenLogprob(token="The", logprob=-1.0),)
    chunks = events_in((await http.post("/v1/chat/completions", json=chat_body(stream=True, **fields))).text)
    deltas_sent = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert all(delta["content"] for delta in deltas_sent if "content" in delta)
    assert any("content" in delta for delta in deltas_sent)


async def test_every_chunk_has_the_fingerprint_and_the_message_a_refusal(
    http: httpx.AsyncClient, script: Script
) -> None:
    plain = (await http.post("/v1/chat/completions", json=chat_body())).json()
    assert plain["choices"][0]["message"]["refusal"] is None
    chunks = events_in((await http.post("/v1/chat/completions", json=chat_body(stream=True))).text)
    assert {chunk["system_fingerprint"] for chunk in chunks} == {plain["system_fingerprint"]}


STEPS_DOWN: list[tuple[dict[str, Any], str]] = [
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"logprobs": True}, "logprobs"),
    ({"n": 2}, "n"),
    ({"tools": [{"type": "function", "function": {"name": "now"}}]}, "tools"),
    ({"messages": [*ASK, {"role": "assistant", "content": "It is"}]}, "messages"),
    ({"reasoning_effort": "high", "n": 2, "model": "micro-kiki-fast"}, "n"),
]


@pytest.mark.parametrize(("fields", "field"), STEPS_DOWN)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_field_that_no_panel_can_serve_steps_down_and_says_so(
    http: httpx.AsyncClient, script: Script, fields: dict[str, Any], field: str, stream: bool
) -> None:
    script.candidates = ("Paris.", "Lyon.") if "n" in fields else None
    body = chat_body(model="micro-kiki", stream=stream) | fields
    reply = await http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    assert script.queries[0].query.level == "fast"
    assert reply.headers["x-kiki-level"] == "fast"
    assert reply.headers["x-kiki-degraded"] == f"level=fast; field={field}"


async def test_the_level_of_the_alias_is_no_degradation(http: httpx.AsyncClient, script: Script) -> None:
    for fields in ({"model": "micro-kiki"}, {"model": "micro-kiki-fast", "n": 2}, {"model": "micro-kiki-base"}):
        script.candidates = ("Paris.", "Lyon.")
        reply = await http.post("/v1/chat/completions", json=chat_body(**fields))
        assert "x-kiki-degraded" not in reply.headers


@pytest.mark.parametrize("stream", [False, True])
async def test_a_missing_adapter_is_named(http: httpx.AsyncClient, script: Script, stream: bool) -> None:
    body = chat_body(model="kiki-niche-power", stream=stream)
    assert (await http.post("/v1/chat/completions", json=body)).headers["x-kiki-degraded"] == "adapter=power; missing"
    script.adapters = (AdapterUse(name="power"),)
    assert "x-kiki-degraded" not in (await http.post("/v1/chat/completions", json=body)).headers


async def test_a_cut_answer_says_so(http: httpx.AsyncClient, script: Script) -> None:
    script.is_cut = True
    body = chat_body(model="micro-kiki", kiki={"trace": True})
    reply = await http.post("/v1/chat/completions", json=body)
    assert reply.headers["x-kiki-degraded"] == "deadline; cut"
    assert reply.json()["kiki"]["cut"] is True


@pytest.mark.parametrize("stream", [False, True])
async def test_log_probabilities_have_each_tokens_own_bytes(
    http: httpx.AsyncClient, script: Script, stream: bool
) -> None:
    """Half a character is no text: its bytes come beside the replacement character."""
    first, second = "é".encode()[:1], "é".encode()[1:]
    entries = (
        TokenLogprob(token="\ufffd", logprob=-0.5, bytes=tuple(first)),
        TokenLogprob(token="\ufffd", logprob=-0.25, bytes=tuple(second)),
        TokenLogprob(token="t", logprob=-0.125),
    )
    script.text, script.logprobs = "ét", entries
    script.tokens = (InferToken(turn_id="", index=0, text="é", tokens=entries[:2]),)
    reply = await http.post("/v1/chat/completions", json=chat_body(logprobs=True, stream=stream))
    if stream:
        choices = [choice for event in events_in(reply.text) for choice in event["choices"]]
        content = [entry for choice in choices if choice["logprobs"] for entry in choice["logprobs"]["content"]]
    else:
        content = reply.json()["choices"][0]["logprobs"]["content"]
    assert bytes(byte for entry in content for byte in entry["bytes"]).decode() == "ét"
    assert [entry["logprob"] for entry in content] == [-0.5, -0.25, -0.125]


async def test_a_turn_that_is_decoded_again_shows_each_log_probability_once(
    http: httpx.AsyncClient, script: Script
) -> None:
    entries = tuple(TokenLogprob(token=text, logprob=-1.0) for text in ("a", "b", "c"))
    script.text, script.logprobs = "abc", entries
    script.tokens = (
        InferToken(turn_id="", index=0, text="a", tokens=entries[:1]),
        InferToken(turn_id="", index=0, text="ab", tokens=entries[:2], attempt=2),
        InferToken(turn_id="", index=1, text="", tokens=entries[2:], attempt=2),
        InferToken(turn_id="", index=2, text="c", attempt=2),
    )
    reply = await http.post("/v1/chat/completions", json=chat_body(logprobs=True, stream=True))
    choices = [choice for event in events_in(reply.text) for choice in event["choices"]]
    shown = [entry["token"] for choice in choices if choice["logprobs"] for entry in choice["logprobs"]["content"]]
    assert shown == ["a", "b", "c"]
    assert "".join(deltas(reply.text)) == "abc"


def comments_in(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(":")]


def events_in(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def deltas(text: str, kind: str = "content", *, index: int = 0) -> list[str]:
    """The text of one choice in a stream."""
    return [
        choice["delta"].get(kind, "")
        for event in events_in(text)
        for choice in event["choices"]
        if choice["index"] == index
    ]


async def test_the_clients_trace_goes_on_with_the_turn(http: httpx.AsyncClient, script: Script, bus: Bus) -> None:
    trace_parents: list[str] = []

    async def collect(message: LiveMessage) -> None:
        trace_parents.append(message.headers["traceparent"])

    await bus.listen(bus.subjects.stage(QueryReceived.subject), collect)
    await bus.flush()
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    await http.post(
        "/v1/chat/completions", json=chat_body(), headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    )
    await wait_until(lambda: bool(trace_parents))
    assert trace_id in trace_parents[0]
