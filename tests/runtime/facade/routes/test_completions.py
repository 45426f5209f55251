"""``/v1/completions``: the official client and plain HTTP against a served facade."""

import json
from typing import Any

import anyio
import httpx
import pytest
from openai import AsyncOpenAI

from schemas.errors import InvalidInput, StageFailed
from schemas.events import InferToken
from schemas.findings import Echo, LikelyToken, TokenLogprob
from tests.runtime.facade.scripted import Script, wait_until

pytestmark = pytest.mark.anyio
TOKENS = tuple(
    TokenLogprob(token=text, logprob=-0.5, top=(LikelyToken(token=text, logprob=-0.5),))
    for text in ("The capital ", "is Paris.")
)
ECHO = Echo(
    text="Tell me. ", tokens=(TokenLogprob(token="Tell ", logprob=0.0), TokenLogprob(token="me. ", logprob=-2.0))
)


def completion_body(**fields: Any) -> dict[str, Any]:
    return {"model": "micro-kiki", "prompt": "Tell me. "} | fields


async def complete(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    reply = await http.post("/v1/completions", json=completion_body(**fields))
    assert reply.status_code == 200, reply.text
    assert reply.headers["x-kiki-level"] == "raw"
    body: dict[str, Any] = reply.json()
    return body


async def stream(http: httpx.AsyncClient, **fields: Any) -> list[dict[str, Any]]:
    reply = await http.post("/v1/completions", json=completion_body(stream=True, **fields))
    assert reply.status_code == 200, reply.text
    *events, done = [line[6:] for line in reply.text.splitlines() if line.startswith("data: ")]
    assert done == "[DONE]"
    return [json.loads(event) for event in events]


def texts_of(chunks: list[dict[str, Any]]) -> list[str]:
    """The choices' texts, in order."""
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return [texts[index] for index in range(len(texts))]


async def test_an_answer_reaches_the_official_client(url: str, script: Script) -> None:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        reply = await client.completions.create(model="micro-kiki", prompt="Once", max_tokens=5, stop="X")
        chunks = [
            chunk
            async for chunk in await client.completions.create(
                model="micro-kiki", prompt="Once", stream=True, stream_options={"include_usage": True}
            )
        ]
    (choice,) = reply.choices
    assert (choice.text, choice.index, choice.finish_reason) == ("The capital is Paris.", 0, "stop")
    assert choice.logprobs is None
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (7, 5, 12)
    assert reply.id == f"cmpl-{script.queries[0].envelope.turn_id}"
    assert (reply.object, reply.model, reply.system_fingerprint) == ("text_completion", "micro-kiki", "fp_abcdef012345")
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == "The capital is Paris."
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * len(chunks[:-1])
    assert chunks[-1].usage is not None
    assert (chunks[-1].choices, chunks[-1].usage.total_tokens) == ([], 12)
    assert {chunk.id for chunk in chunks} == {f"cmpl-{script.queries[1].envelope.turn_id}"}
    query = script.queries[0].query
    assert (query.sampling.max_tokens, query.sampling.stop, query.level) == (5, ("X",), "raw")


async def test_the_last_piece_comes_with_the_reason(http: httpx.AsyncClient, script: Script) -> None:
    script.finish_reason = "length"
    choices = [chunk["choices"][0] for chunk in await stream(http)]
    assert [(choice["text"], choice["finish_reason"]) for choice in choices] == [
        ("The capital ", None),
        ("is Paris.", "length"),
    ]


async def test_tokens_are_shown_while_they_come(http: httpx.AsyncClient, script: Script) -> None:
    script.before_answer = anyio.Event()
    async with http.stream("POST", "/v1/completions", json=completion_body(stream=True)) as reply:
        text = ""
        async for line in reply.aiter_lines():
            text += line
            if "The capital " in text:
                script.before_answer.set()  # without live tokens this line is never reached
    assert text.endswith("data: [DONE]")


async def test_each_prompt_has_its_answer_in_its_place(http: httpx.AsyncClient, script: Script) -> None:
    script.answers = {"A": "one", "B": "two", "C": "three"}
    body = await complete(http, prompt=["A", "B", "C"])
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == [(0, "one"), (1, "two"), (2, "three")]
    assert body["usage"] == {"prompt_tokens": 21, "completion_tokens": 15, "total_tokens": 36}
    assert body["kiki"]["usage"]["total_tokens"] == 360
    assert len(body["kiki"]["turns"]) == 3
    chunks = await stream(http, prompt=["A", "B", "C"], stream_options={"include_usage": True})
    assert texts_of(chunks) == ["one", "two", "three"]
    assert chunks[-1]["usage"] == body["usage"]
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_prompts_run_at_once(http: httpx.AsyncClient, script: Script) -> None:
    for streams in (False, True):
        script.queries.clear()
        script.before_answer = anyio.Event()
        async with anyio.create_task_group() as tasks:
            ask = stream if streams else complete
            tasks.start_soon(lambda: ask(http, prompt=["A", "B", "C"]))  # noqa: B023 - the group ends in the loop
            await wait_until(lambda: len(script.queries) == 3)
            script.before_answer.set()


@pytest.mark.parametrize("streams", [False, True])
async def test_choices_of_prompts_are_numbered_through(http: httpx.AsyncClient, script: Script, streams: bool) -> None:
    script.candidates = ("The capital is Paris.", "Paris.")
    fields = {"prompt": ["A", "B"], "n": 2, "temperature": 1}
    if streams:
        chunks = await stream(http, **fields)
        assert texts_of(chunks) == list(script.candidates) * 2
        assert len([chunk for chunk in chunks if chunk["choices"][0]["finish_reason"]]) == 4
        return
    choices = (await complete(http, **fields))["choices"]
    assert [(choice["index"], choice["text"]) for choice in choices] == list(enumerate(script.candidates * 2))


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("prompt", ["Tell me. ", [1, 2, 3]])
async def test_an_echo_begins_the_text(http: httpx.AsyncClient, script: Script, prompt: Any, n: int) -> None:
    script.echo = ECHO
    script.candidates = ("The capital is Paris.",) * n
    whole = "Tell me. The capital is Paris."
    body = await complete(http, prompt=prompt, echo=True, n=n)
    assert [choice["text"] for choice in body["choices"]] == [whole] * n
    assert texts_of(await stream(http, prompt=prompt, echo=True, n=n)) == [whole] * n
    assert texts_of(await stream(http, prompt=prompt, n=n)) == ["The capital is Paris."] * n


async def test_a_known_prompt_is_echoed_before_the_answer(http: httpx.AsyncClient, script: Script) -> None:
    script.before_answer = anyio.Event()
    async with http.stream("POST", "/v1/completions", json=completion_body(stream=True, echo=True)) as reply:
        text = ""
        async for line in reply.aiter_lines():
            text += line
            if "Tell me. " in text:
                script.before_answer.set()
    assert text.endswith("data: [DONE]")


LISTS = {
    "tokens": ["The capital ", "is Paris."],
    "token_logprobs": [-0.5, -0.5],
    "top_logprobs": [{"The capital ": -0.5}, {"is Paris.": -0.5}],
    "text_offset": [0, 12],
}
ECHOED_LISTS = {
    "tokens": ["Tell ", "me. ", "The capital ", "is Paris."],
    "token_logprobs": [None, -2.0, -0.5, -0.5],
    "top_logprobs": [None, {"me. ": -2.0}, {"The capital ": -0.5}, {"is Paris.": -0.5}],
    "text_offset": [0, 5, 9, 21],
}


@pytest.mark.parametrize(("echo", "lists"), [(False, LISTS), (True, ECHOED_LISTS)])
async def test_log_probabilities_stand_in_lists(
    http: httpx.AsyncClient, script: Script, echo: bool, lists: dict[str, list[Any]]
) -> None:
    script.echo, script.logprobs = ECHO, TOKENS
    script.tokens = tuple(
        InferToken(turn_id="", index=index, text=token.token, tokens=(token,)) for index, token in enumerate(TOKENS)
    )
    body = await complete(http, logprobs=1, echo=echo)
    assert body["choices"][0]["logprobs"] == lists
    streamed: dict[str, list[Any]] = {name: [] for name in lists}
    for chunk in await stream(http, logprobs=1, echo=echo):
        for name, values in (chunk["choices"][0]["logprobs"] or {}).items():
            streamed[name] += values
    assert streamed == lists


@pytest.mark.parametrize("echo", [True, False])
async def test_no_tokens_at_all_give_the_prompt_alone(http: httpx.AsyncClient, script: Script, echo: bool) -> None:
    script.echo, script.logprobs = ECHO, TOKENS
    body = await complete(http, max_tokens=0, echo=echo, logprobs=1)
    (choice,) = body["choices"]
    text = "Tell me. " if echo else ""
    assert (choice["text"], choice["finish_reason"]) == (text, "length")
    assert choice["logprobs"]["tokens"] == (["Tell ", "me. "] if echo else [])
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": 7}
    chunks = await stream(http, max_tokens=0, echo=echo, stream_options={"include_usage": True})
    assert texts_of(chunks) == [text]
    assert chunks[-1]["usage"] == body["usage"]


@pytest.mark.parametrize("streams", [False, True])
async def test_a_prompt_that_cannot_be_served_refuses_the_request(
    http: httpx.AsyncClient, script: Script, streams: bool
) -> None:
    script.answers = {"A": "one", "B": InvalidInput("the prompt is too long.", param="prompt")}
    script.before_answer = anyio.Event()  # of the first prompt, which is cancelled
    reply = await http.post("/v1/completions", json=completion_body(prompt=["A", "B"], stream=streams))
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "prompt")
    await wait_until(lambda: bool(script.cancellations))
    assert [event.envelope.turn_id for event in script.cancellations] == [
        event.envelope.turn_id for event in script.queries if event.query.text == "A"
    ]


async def test_an_error_ends_the_stream_of_all_prompts(http: httpx.AsyncClient, script: Script) -> None:
    script.fail_late = StageFailed("the model broke.")
    reply = await http.post("/v1/completions", json=completion_body(prompt=["A", "B"], stream=True))
    assert reply.text.count("the model broke.") == 1
    assert "[DONE]" not in reply.text


async def test_a_client_that_leaves_cancels_every_prompt(http: httpx.AsyncClient, script: Script) -> None:
    script.silent = True
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: http.post("/v1/completions", json=completion_body(prompt=["A", "B"])))
        await wait_until(lambda: len(script.queries) == 2)
        tasks.cancel_scope.cancel()
    await wait_until(lambda: len(script.cancellations) == 2)
    assert {event.envelope.turn_id for event in script.cancellations} == {
        event.envelope.turn_id for event in script.queries
    }


async def test_a_retry_with_its_key_gets_the_same_turns(http: httpx.AsyncClient, script: Script) -> None:
    script.answers = {"A": "one", "B": "two"}
    headers = {"Idempotency-Key": "key-1"}
    bodies = [
        (await http.post("/v1/completions", json=completion_body(prompt=["A", "B"]), headers=headers)).json()
        for _ in range(2)
    ]
    assert bodies[0] == bodies[1]
    assert [choice["text"] for choice in bodies[0]["choices"]] == ["one", "two"]
    assert len(script.queries) == 2


async def test_the_account_of_a_turn_comes_when_it_is_asked_for(http: httpx.AsyncClient, script: Script) -> None:
    body = await complete(http, kiki={"trace": True})
    assert body["kiki"]["level"] == "raw"
    chunks = await stream(http, kiki={"trace": True})
    assert chunks[-1]["kiki"]["turn_id"] == script.queries[1].envelope.turn_id
