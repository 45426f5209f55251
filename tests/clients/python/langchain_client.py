"""LangChain over ``langchain-openai``."""

import asyncio
from contextlib import aclosing

from harness import (
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
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from models import Forecast


def chat(model, **more):
    """A chat model of that name."""
    settings = {"max_tokens": 120, "temperature": 0, "timeout": 60, "max_retries": 0} | more
    return ChatOpenAI(model=model, base_url=URL, api_key=KEY, **settings)


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


@tool
def ping() -> str:
    """Ping the server."""
    return "pong"


@check("invoke")
def invoke():
    reply = chat(DEFAULT).invoke([SystemMessage("Be brief."), HumanMessage(QUESTION)])
    assert "Paris" in reply.content
    assert reply.usage_metadata["output_tokens"] > 0
    assert reply.response_metadata["finish_reason"] == "stop"
    assert reply.response_metadata["model_name"] == DEFAULT


@check("stream with usage")
def stream():
    total = None
    for chunk in chat(DEFAULT, stream_usage=True).stream(QUESTION):
        total = chunk if total is None else total + chunk
    assert "Paris" in total.content
    assert 0 < total.usage_metadata["output_tokens"] <= 120


@check("batch")
def batch():
    assert all("Paris" in reply.content for reply in chat(FAST, max_tokens=16).batch([QUESTION, QUESTION]))


@check("structured output by schema")
def by_schema():
    assert isinstance(chat(DEFAULT).with_structured_output(Forecast).invoke("A forecast for Paris"), Forecast)


@check("structured output by function")
def by_function():
    asked = chat(DEFAULT).with_structured_output(Forecast, method="function_calling")
    assert isinstance(asked.invoke("A forecast for Paris"), Forecast)


@check("forced call")
def forced():
    reply = chat(FAST, max_tokens=40).bind_tools([get_weather], tool_choice="any").invoke("The weather of Paris?")
    if reply.response_metadata["finish_reason"] != "length":  # a free string may be long
        assert reply.tool_calls[0]["name"] == "get_weather"
        assert set(reply.tool_calls[0]["args"]) == {"city"}, reply
    assert reply.content == "", reply


@check("forced call without parameters")
def empty():
    reply = chat(FAST).bind_tools([ping], tool_choice="ping").invoke("Ping!")
    assert reply.tool_calls[0]["args"] == {}, reply


@check("tool loop")
def loop():
    call = {"name": "get_weather", "args": {"city": "Paris"}, "id": "call_1", "type": "tool_call"}
    messages = [
        HumanMessage("The weather of Paris?"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("sunny", tool_call_id="call_1"),
    ]
    bound = chat(FAST, max_tokens=16).bind_tools([get_weather], tool_choice="none")
    assert bound.invoke(messages).content
    assert "".join(chunk.content for chunk in bound.stream(messages))


@check("responses endpoint")
def responses():
    reply = chat(FAST, use_responses_api=True, max_tokens=24).invoke(QUESTION)
    assert "Paris" in reply.text
    text = "".join(chunk.text for chunk in chat(FAST, use_responses_api=True, max_tokens=24).stream(QUESTION))
    assert "Paris" in text


@check("logprobs")
def logprobs():
    reply = chat(DEFAULT, max_tokens=12).bind(logprobs=True, top_logprobs=1).invoke(QUESTION)
    tokens = reply.response_metadata["logprobs"]["content"]
    assert b"".join(bytes(token["bytes"]) for token in tokens).decode() == reply.content


@check("embeddings")
def embeddings():
    model = OpenAIEmbeddings(model=EMBEDDER, base_url=URL, api_key=KEY, check_embedding_ctx_length=False, max_retries=0)
    vectors = model.embed_documents(["a river", "a village"])
    assert [len(vector) for vector in vectors] == [768, 768]
    assert max(abs(a - b) for a, b in zip(model.embed_query("a river"), vectors[0], strict=True)) < 1e-4


@check("context overflow is recognised")
def context():
    expect(ContextOverflowError, lambda: chat(FAST).invoke(TOO_LONG))
    expect(ContextOverflowError, lambda: list(chat(DEFAULT).stream(TOO_LONG)))


@check("error late in a stream")
def late_error():
    pieces = chat(FAST, max_tokens=500).stream(STORY)
    for _ in range(3):
        next(pieces)
    cancel_turn()
    assert str(expect(Exception, lambda: list(pieces)))
    wait_until_idle()


@check("async stream that is left")
async def left():
    async with aclosing(chat(FAST, max_tokens=1000).astream(STORY)) as pieces:
        async for piece in pieces:
            if piece.content:
                break
    await asyncio.to_thread(wait_until_idle)


finish()
