"""LiteLLM with its ``openai/`` and ``anthropic/`` prefixes, as aider and other tools call it."""

import json
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the internet for prices

import litellm
from harness import (
    DEFAULT,
    EMBEDDER,
    FAST,
    HOST,
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
from models import Forecast

litellm.telemetry = False
litellm.suppress_debug_info = True
USER = [{"role": "user", "content": QUESTION}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
        },
    },
}


def ask(model=f"openai/{FAST}", **more):
    """A completion, plain or streamed."""
    settings = {"messages": USER, "max_tokens": 24, "temperature": 0, "timeout": 60, "num_retries": 0} | more
    return litellm.completion(model=model, api_base=settings.pop("api_base", URL), api_key=KEY, **settings)


@check("completion")
def completion():
    reply = ask(f"openai/{DEFAULT}")
    assert "Paris" in reply.choices[0].message.content
    assert reply.usage.completion_tokens <= 24


@check("stream with usage")
def stream():
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    whole = litellm.stream_chunk_builder(chunks, messages=USER)
    assert "Paris" in whole.choices[0].message.content
    assert whole.usage.completion_tokens > 0


@check("as aider calls it")
def aider():
    messages = [{"role": "system", "content": "Act as an expert developer."}, *USER]
    chunks = list(ask(f"openai/{DEFAULT}", messages=messages, stream=True, max_tokens=None))
    assert "Paris" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


@check("nested model as response_format")
def structured():
    reply = ask(f"openai/{DEFAULT}", response_format=Forecast, max_tokens=120)
    assert Forecast.model_validate_json(reply.choices[0].message.content)


@check("forced call and loop")
def tools():
    first = ask(tools=[WEATHER], tool_choice="required", max_tokens=64).choices[0].message
    assert set(json.loads(first.tool_calls[0].function.arguments)) == {"city"}, first
    answered = [*USER, first.model_dump(), {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "sunny"}]
    assert ask(messages=answered, tools=[WEATHER], tool_choice="none").choices[0].message.content


@check("reasoning that is echoed")
def reasoning():
    messages = [*USER, {"role": "assistant", "content": "Paris.", "reasoning_content": "France."}, *USER]
    assert ask(messages=messages).choices[0].message.content


@check("context window error")
def context():
    for stream in (False, True):
        long = [{"role": "user", "content": TOO_LONG}]
        expect(
            litellm.ContextWindowExceededError,
            lambda stream=stream, long=long: ask(messages=long, stream=stream),
        )


@check("typed errors")
def errors():
    expect(litellm.NotFoundError, lambda: ask("openai/no-such-model"))
    expect(litellm.BadRequestError, lambda: ask(messages=[{"role": "nobody", "content": "a"}]))
    expect(
        litellm.AuthenticationError,
        lambda: litellm.completion(model=f"openai/{FAST}", api_base=URL, api_key="sk-nobody", messages=USER),
    )


@check("error late in a stream")
def late_error():
    chunks = ask(messages=[{"role": "user", "content": STORY}], max_tokens=500, stream=True)
    for _ in range(3):
        next(chunks)
    cancel_turn()
    assert str(expect(Exception, lambda: list(chunks)))
    wait_until_idle()


@check("embedding")
def embedding():
    reply = litellm.embedding(model=f"openai/{EMBEDDER}", input=["a river"], api_base=URL, api_key=KEY)
    assert len(reply.data[0]["embedding"]) == 768


@check("text completion")
def text():
    reply = litellm.text_completion(
        model=f"text-completion-openai/{FAST}",
        prompt="The capital of France is",
        max_tokens=8,
        api_base=URL,
        api_key=KEY,
    )
    assert reply.choices[0].text


@check("responses")
def responses():
    reply = litellm.responses(model=f"openai/{FAST}", input=QUESTION, max_output_tokens=24, api_base=URL, api_key=KEY)
    assert "Paris" in reply.output[-1].content[0].text


@check("anthropic prefix")
def anthropic():
    reply = ask(f"anthropic/{FAST}", api_base=HOST)
    assert "Paris" in reply.choices[0].message.content
    chunks = list(ask(f"anthropic/{FAST}", api_base=HOST, stream=True))
    assert "Paris" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


@check("anthropic prefix, context window error")
def anthropic_context():
    long = [{"role": "user", "content": TOO_LONG}]
    expect(litellm.ContextWindowExceededError, lambda: ask(f"anthropic/{FAST}", api_base=HOST, messages=long))


finish()
