"""LlamaIndex over ``llama-index-llms-openai-like``."""

from harness import (
    BASE,
    DEFAULT,
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
from llama_index.core.llms import ChatMessage
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike, OpenAILikeResponses
from models import Forecast


def model(name, **more):
    """The model of that name over the chat endpoint."""
    settings = {"is_chat_model": True, "is_function_calling_model": True, "max_tokens": 120, "temperature": 0} | more
    return OpenAILike(model=name, api_base=URL, api_key=KEY, context_window=8192, timeout=60, max_retries=0, **settings)


ASKED = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content=QUESTION)]


@check("chat")
def chat():
    assert "Paris" in model(DEFAULT).chat(ASKED).message.content


@check("stream")
def stream():
    pieces = list(model(DEFAULT).stream_chat(ASKED))
    assert "Paris" in pieces[-1].message.content
    assert "".join(piece.delta or "" for piece in pieces) == pieces[-1].message.content


@check("completions endpoint")
def complete():
    plain = model(BASE, is_chat_model=False, is_function_calling_model=False, max_tokens=8)
    assert plain.complete("The capital of France is").text
    assert list(plain.stream_complete("The capital of France is"))[-1].text


@check("forced call")
def forced():
    def get_weather(raining: bool) -> str:
        """The weather."""
        return "rain" if raining else "sun"

    reply = model(FAST).chat_with_tools(
        [FunctionTool.from_defaults(get_weather)], user_msg="Is it raining?", tool_required=True
    )
    (call,) = model(FAST).get_tool_calls_from_response(reply)
    assert call.tool_name == "get_weather"
    assert set(call.tool_kwargs) == {"raining"}


@check("nested model by function")
def nested():
    program = FunctionCallingProgram.from_defaults(
        output_cls=Forecast, prompt_template_str="A forecast for {city}.", llm=model(DEFAULT), tool_required=True
    )
    assert isinstance(program(city="Paris"), Forecast)


@check("responses endpoint")
def responses():
    own = OpenAILikeResponses(
        model=FAST, api_base=URL, api_key=KEY, context_window=8192, max_output_tokens=24, temperature=0, max_retries=0
    )
    assert "Paris" in own.chat(ASKED).message.content
    assert "Paris" in "".join(piece.delta or "" for piece in own.stream_chat(ASKED))


@check("prompt too long for a stream")
def context():
    long = [ChatMessage(role="user", content=TOO_LONG)]
    assert "context" in str(expect(Exception, lambda: list(model(FAST).stream_chat(long))))


@check("error late in a stream")
def late_error():
    pieces = model(FAST, max_tokens=500).stream_chat([ChatMessage(role="user", content=STORY)])
    for _ in range(3):
        next(pieces)
    cancel_turn()
    assert str(expect(Exception, lambda: list(pieces)))
    wait_until_idle()


finish()
