"""The official client for Python: every endpoint that it has and the runtime serves."""

import asyncio
import json

import httpx2
import openai
from harness import (
    BASE,
    DEFAULT,
    EMBEDDER,
    FAST,
    KEY,
    QUESTION,
    STORY,
    TOO_LONG,
    URL,
    cancel_turn,
    check,
    expect,
    finish,
    wait_until_idle,
)
from models import Forecast, Unit
from openai.types.responses import ResponseCompletedEvent, ResponseTextDeltaEvent

client = openai.OpenAI(base_url=URL, api_key=KEY, timeout=60, max_retries=0)
USER = [{"role": "user", "content": QUESTION}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
        },
    },
}


def weather(**more):
    """A request that forces a call of the weather tool."""
    call = {"model": FAST, "messages": [{"role": "user", "content": "The weather of Paris?"}], "tools": [WEATHER]}
    return call | {"tool_choice": "required", "max_tokens": 64, "temperature": 0} | more


@check("models")
def models():
    names = [model.id for model in client.models.list()]
    assert DEFAULT in names, names
    model = client.models.retrieve(FAST)
    assert model.id == FAST
    assert model.model_extra["context_length"] == 8192, model


@check("chat")
def chat():
    completion = client.chat.completions.create(model=DEFAULT, messages=USER, max_tokens=24, temperature=0)
    choice = completion.choices[0]
    assert "Paris" in choice.message.content, choice
    assert choice.finish_reason == "stop"
    assert choice.message.refusal is None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert completion.system_fingerprint


@check("usage within max_tokens")
def usage():
    story = [{"role": "user", "content": STORY}]
    completion = client.chat.completions.create(model=DEFAULT, messages=story, max_tokens=12)
    assert completion.choices[0].finish_reason == "length", completion
    assert completion.usage.completion_tokens <= 12, completion.usage


@check("both names of max_tokens")
def token_fields():
    story = [{"role": "user", "content": STORY}]
    completion = client.chat.completions.create(model=FAST, messages=story, max_tokens=8, max_completion_tokens=6)
    assert completion.usage.completion_tokens <= 8, completion.usage


@check("stream with usage")
def stream():
    chunks = list(
        client.chat.completions.create(
            model=DEFAULT,
            messages=USER,
            max_tokens=24,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Paris" in text, text
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == []
    assert 0 < chunks[-1].usage.completion_tokens <= 24
    assert all(chunk.system_fingerprint for chunk in chunks), chunks[0]


@check("stream helper")
def stream_helper():
    with client.chat.completions.stream(model=FAST, messages=USER, max_tokens=24, temperature=0) as events:
        kinds = {event.type for event in events}
        final = events.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds, kinds
    assert "Paris" in final.choices[0].message.content


@check("parse a nested model")
def parse():
    completion = client.chat.completions.parse(
        model=DEFAULT, messages=USER, response_format=Forecast, max_tokens=120, temperature=0
    )
    assert isinstance(completion.choices[0].message.parsed, Forecast), completion


@check("parse a nested model from a stream")
def parse_stream():
    with client.chat.completions.stream(
        model=FAST, messages=USER, response_format=Forecast, max_tokens=120, temperature=0
    ) as events:
        assert isinstance(events.get_final_completion().choices[0].message.parsed, Forecast)


@check("json_object")
def json_object():
    asked = [{"role": "user", "content": "Answer in JSON: what is the capital of France?"}]
    completion = client.chat.completions.create(
        model=DEFAULT, messages=asked, response_format={"type": "json_object"}, max_tokens=60, temperature=0
    )
    choice = completion.choices[0]
    assert choice.message.content.lstrip().startswith("{"), choice
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)


@check("logprobs")
def logprobs():
    completion = client.chat.completions.create(
        model=DEFAULT, messages=USER, max_tokens=12, temperature=0, logprobs=True, top_logprobs=2
    )
    tokens = completion.choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == completion.choices[0].message.content
    assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in tokens)


@check("streamed logprobs")
def streamed_logprobs():
    text, spelt = "", b""
    for chunk in client.chat.completions.create(
        model=FAST, messages=USER, max_tokens=12, temperature=0, logprobs=True, stream=True
    ):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            spelt += b"".join(bytes(token.bytes) for token in (choice.logprobs and choice.logprobs.content) or [])
    assert spelt, "no log-probabilities"
    assert spelt.decode() == text


@check("two choices")
def choices():
    completion = client.chat.completions.create(model=DEFAULT, messages=USER, max_tokens=8, n=2)
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert completion.usage.completion_tokens <= 16


@check("two choices from a stream")
def streamed_choices():
    chunks = client.chat.completions.create(model=FAST, messages=USER, max_tokens=8, n=2, stream=True)
    ends = {choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason}
    assert ends == {0, 1}


@check("seed and stop")
def seed():
    def ask():
        return client.chat.completions.create(
            model=BASE, messages=[{"role": "user", "content": STORY}], max_tokens=12, seed=7, temperature=1
        )

    assert ask().choices[0].message.content == ask().choices[0].message.content
    stopped = client.chat.completions.create(model=BASE, messages=USER, max_tokens=24, temperature=0, stop=[" of"])
    assert stopped.choices[0].message.content.strip() == "The capital", stopped


@check("forced call of a nested model")
def nested_tool():
    completion = client.chat.completions.parse(
        model=DEFAULT, messages=USER, tools=[openai.pydantic_function_tool(Forecast)], tool_choice="required",
        max_tokens=120, temperature=0,
    )  # fmt: skip
    call = completion.choices[0].message.tool_calls[0]
    assert isinstance(call.function.parsed_arguments, Forecast), call
    assert call.function.parsed_arguments.unit in Unit
    assert completion.choices[0].finish_reason in ("tool_calls", "stop")


@check("forced call is closed")
def closed_tool():
    completion = client.chat.completions.create(**weather())
    call = completion.choices[0].message.tool_calls[0]
    assert set(json.loads(call.function.arguments)) == {"city"}, call
    assert completion.choices[0].message.content in (None, "")


@check("forced call without parameters")
def empty_tool():
    for function in ({"name": "ping"}, {"name": "ping", "parameters": {}},
                     {"name": "ping", "parameters": {"type": "object", "properties": {}}}):  # fmt: skip
        tool = {"type": "function", "function": {"description": "Ping the server.", **function}}
        choice = {"type": "function", "function": {"name": "ping"}}
        completion = client.chat.completions.create(**weather(tools=[tool], tool_choice=choice))
        assert completion.choices[0].message.tool_calls[0].function.arguments == "{}", (function, completion)


@check("call that is cut off")
def cut_call():
    completion = client.chat.completions.create(**weather(max_tokens=4))
    assert completion.choices[0].finish_reason == "length", completion
    assert not completion.choices[0].message.content, completion


@check("streamed call")
def streamed_tool():
    name, arguments = "", ""
    for chunk in client.chat.completions.create(**weather(stream=True)):
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or []:
                name += call.function.name or ""
                arguments += call.function.arguments or ""
    assert name == "get_weather"
    assert set(json.loads(arguments)) == {"city"}


@check("tool loop")
def tool_loop():
    first = client.chat.completions.create(**weather()).choices[0].message
    answered = [
        {"role": "user", "content": "The weather of Paris?"},
        first.model_dump(),
        {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "sunny, 20 degrees"},
    ]
    reply = client.chat.completions.create(**weather(messages=answered, tool_choice="none"))
    assert reply.choices[0].message.content
    assert not reply.choices[0].message.tool_calls


@check("shapes of a conversation")
def shapes():
    for messages in (
        [{"role": "developer", "content": "Be brief."}, *USER],
        [{"role": "system", "content": "Say hello."}],
        [*USER, {"role": "assistant", "content": "The capital of"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
         {"role": "assistant", "content": "Hello", "reasoning_content": "A greeting.", "refusal": None},
         {"role": "system", "content": "Be kind."}, *USER],
        [{"role": "user", "content": "Hi"}, *USER],
        [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
        [{"role": "user", "content": ""}],
    ):  # fmt: skip
        completion = client.chat.completions.create(model=BASE, messages=messages, max_tokens=8, temperature=0)
        assert completion.choices[0].message.role == "assistant", messages


@check("fields that change nothing")
def neutral_fields():
    completion = client.chat.completions.create(
        model=FAST, messages=USER, max_tokens=8, reasoning_effort="low", service_tier="auto", metadata={"run": "1"},
        parallel_tool_calls=True, user="ada", verbosity="low", prompt_cache_key="k", safety_identifier="ada",
        extra_body={"chat_template_kwargs": {"enable_thinking": False}, "top_k": -1, "a_field_of_tomorrow": 1},
    )  # fmt: skip
    assert completion.choices[0].message.content


@check("numbers as others take them")
def numbers():
    completion = client.chat.completions.create(
        model=FAST, messages=USER, max_tokens=8, top_p=0, temperature=0, seed=-1, extra_body={"top_k": -1}
    )
    assert completion.choices[0].message.content
    client.chat.completions.create(model=FAST, messages=USER, max_tokens=1_000_000, temperature=0)


@check("embeddings")
def embeddings():
    reply = client.embeddings.create(model=EMBEDDER, input=["a river", "a village"])  # base64 on the wire
    plain = client.embeddings.create(model=EMBEDDER, input="a river", encoding_format="float")
    assert [item.index for item in reply.data] == [0, 1]
    assert len(reply.data[0].embedding) == len(plain.data[0].embedding) == 768
    assert max(abs(a - b) for a, b in zip(reply.data[0].embedding, plain.data[0].embedding, strict=True)) < 1e-4
    assert reply.usage.total_tokens == reply.usage.prompt_tokens > 0
    expect(openai.BadRequestError, lambda: client.embeddings.create(model=EMBEDDER, input="a", dimensions=5))


@check("completions")
def completions():
    completion = client.completions.create(model=BASE, prompt="The capital of France is", max_tokens=8, temperature=0)
    assert completion.object == "text_completion"
    assert completion.choices[0].text
    assert completion.usage.completion_tokens <= 8
    echoed = client.completions.create(model=BASE, prompt="One two", max_tokens=4, echo=True, logprobs=1)
    assert echoed.choices[0].text.startswith("One two"), echoed
    assert echoed.choices[0].logprobs.tokens
    pieces = list(client.completions.create(model=BASE, prompt="One two three", max_tokens=8, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices)
    error = expect(openai.BadRequestError, lambda: client.completions.create(model=BASE, prompt="a", suffix="b"))
    assert error.param == "suffix", error


@check("responses")
def responses():
    response = client.responses.create(model=DEFAULT, input=QUESTION, max_output_tokens=24, temperature=0)
    assert response.status == "completed"
    assert "Paris" in response.output_text
    assert response.usage.output_tokens <= 24
    roles = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    parts = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": QUESTION}]}]
    for given in (roles, parts):
        assert client.responses.create(model=FAST, input=given, instructions="Be kind.", max_output_tokens=16).output


@check("responses that are cut")
def cut_response():
    response = client.responses.create(model=FAST, input=STORY, max_output_tokens=8)
    assert response.status == "incomplete", response
    assert response.incomplete_details.reason == "max_output_tokens"


@check("responses from a stream")
def responses_stream():
    events = list(client.responses.create(model=FAST, input=QUESTION, max_output_tokens=24, temperature=0, stream=True))
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created", kinds
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if isinstance(event, ResponseTextDeltaEvent))
    assert isinstance(events[-1], ResponseCompletedEvent)
    assert events[-1].response.output_text == text
    assert "Paris" in text
    with client.responses.stream(model=FAST, input=QUESTION, max_output_tokens=24, temperature=0) as helper:
        assert "Paris" in helper.get_final_response().output_text


@check("responses parse a nested model")
def responses_parse():
    response = client.responses.parse(
        model=DEFAULT, input=QUESTION, text_format=Forecast, max_output_tokens=120, temperature=0
    )
    assert isinstance(response.output_parsed, Forecast), response


@check("responses call tools")
def responses_tools():
    tool = {"type": "function", **WEATHER["function"], "strict": True}
    asked = [{"role": "user", "content": "The weather of Paris?"}]
    first = client.responses.create(
        model=FAST, input=asked, tools=[tool], tool_choice="required", max_output_tokens=64, temperature=0
    )
    call = next(item for item in first.output if item.type == "function_call")
    assert set(json.loads(call.arguments)) == {"city"}, call
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    echoed = [*asked, *(item.model_dump() for item in first.output), output]
    assert client.responses.create(model=FAST, input=echoed, max_output_tokens=16).output_text
    assert client.responses.create(
        model=FAST, input=[output], previous_response_id=first.id, max_output_tokens=16
    ).output_text


@check("responses go on from the one before")
def previous_response():
    first = client.responses.create(model=FAST, input="My name is Ada.", max_output_tokens=16)
    second = client.responses.create(
        model=FAST, input="What is my name?", previous_response_id=first.id, max_output_tokens=8
    )
    assert second.previous_response_id == first.id
    assert second.usage.input_tokens > first.usage.input_tokens
    expect(
        openai.APIStatusError,
        lambda: client.responses.create(model=FAST, input="And?", previous_response_id="resp_none"),
    )


@check("responses are kept and deleted")
def kept_response():
    response = client.responses.create(model=FAST, input=QUESTION, max_output_tokens=16)
    assert client.responses.retrieve(response.id).output_text == response.output_text
    client.responses.delete(response.id)
    expect(openai.NotFoundError, lambda: client.responses.retrieve(response.id))


@check("typed errors")
def errors():
    missing = expect(openai.NotFoundError, lambda: client.chat.completions.create(model="no-such-model", messages=USER))
    assert missing.code == "model_not_found", missing
    stranger = client.with_options(api_key="sk-nobody")
    assert expect(openai.AuthenticationError, stranger.models.list).status_code == 401
    wrong = expect(
        openai.BadRequestError, lambda: client.chat.completions.create(model=FAST, messages=USER, temperature=9)
    )
    assert wrong.param == "temperature", wrong
    loop = {"type": "json_schema", "json_schema": {"name": "loop", "schema": {"$ref": "#"}}}
    expect(
        openai.BadRequestError,
        lambda: client.chat.completions.create(model=FAST, messages=USER, response_format=loop, stream=True),
    )


@check("prompt too long for a stream")
def context():
    asked = [{"role": "user", "content": TOO_LONG}]
    for model in (DEFAULT, FAST):
        for stream in (False, True):
            error = expect(
                openai.BadRequestError,
                lambda model=model, stream=stream: client.chat.completions.create(
                    model=model, messages=asked, stream=stream
                ),
            )
            assert error.code == "context_length_exceeded", error


@check("error late in a stream")
def late_error():
    events = client.chat.completions.create(
        model=FAST, messages=[{"role": "user", "content": STORY}], max_tokens=500, stream=True
    )
    for _ in range(3):
        next(events)
    cancel_turn()
    error = expect(openai.APIError, lambda: list(events))
    assert error.message, repr(error)
    wait_until_idle()


@check("closed stream leaves no work")
def closed_stream():
    async def leave():
        async with openai.AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0) as own:
            events = await own.chat.completions.create(
                model=FAST, messages=[{"role": "user", "content": STORY}], max_tokens=1000, stream=True
            )
            for _ in range(3):
                await anext(events)
            await events.close()

    asyncio.run(leave())
    wait_until_idle()


@check("time-out leaves no work")
def timeout():
    hasty = client.with_options(timeout=0.5)
    story = [{"role": "user", "content": STORY}]
    expect(
        openai.APITimeoutError,
        lambda: hasty.chat.completions.create(model=FAST, messages=story, max_tokens=1000),
    )
    wait_until_idle()


@check("retries")
def retries():
    class Flaky(httpx2.HTTPTransport):
        """Fails at the first request."""

        tries = 0

        def handle_request(self, request):
            self.tries += 1
            if self.tries == 1:
                raise httpx2.ConnectError("away", request=request)
            return super().handle_request(request)

    transport = Flaky()
    own = openai.OpenAI(base_url=URL, api_key=KEY, max_retries=2, http_client=httpx2.Client(transport=transport))
    assert own.chat.completions.create(model=BASE, messages=USER, max_tokens=4).choices
    assert transport.tries == 2


@check("four at once")
async def concurrent():
    async with openai.AsyncOpenAI(base_url=URL, api_key=KEY, timeout=60, max_retries=0) as own:
        answers = await asyncio.gather(
            *(own.chat.completions.create(model=FAST, messages=USER, max_tokens=16, temperature=0) for _ in range(4))
        )
    assert all("Paris" in answer.choices[0].message.content for answer in answers)


finish()
