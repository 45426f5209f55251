"""Pydantic AI: agents that call tools and answer in models."""

from harness import DEFAULT, FAST, KEY, QUESTION, TOO_LONG, URL, check, expect, finish
from models import Forecast
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

provider = OpenAIProvider(base_url=URL, api_key=KEY)
SETTINGS = {"max_tokens": 120, "temperature": 0.0, "timeout": 60}


def agent(name, **more):
    """An agent over the chat endpoint."""
    return Agent(OpenAIChatModel(name, provider=provider), model_settings=SETTINGS, **more)


@check("run")
async def run():
    result = await agent(DEFAULT, instructions="Be brief.").run(QUESTION)
    assert "Paris" in result.output
    assert result.usage.output_tokens > 0


@check("stream")
async def stream():
    async with agent(DEFAULT).run_stream(QUESTION) as result:
        pieces = [piece async for piece in result.stream_text(delta=True)]
    assert "Paris" in "".join(pieces)


@check("nested model by function")
async def by_function():
    assert isinstance(
        (await agent(DEFAULT, output_type=ToolOutput(Forecast)).run("A forecast for Paris")).output, Forecast
    )


@check("nested model by schema")
async def by_schema():
    native = agent(DEFAULT, output_type=NativeOutput(Forecast))
    assert isinstance((await native.run("A forecast for Paris")).output, Forecast)


@check("nested model from a stream")
async def streamed_model():
    async with agent(FAST, output_type=ToolOutput(Forecast)).run_stream("A forecast for Paris") as result:
        assert isinstance(await result.get_output(), Forecast)


@check("history")
async def history():
    first = await agent(FAST).run(QUESTION)
    assert (await agent(FAST).run("And of Italy?", message_history=first.all_messages())).output


@check("responses endpoint")
async def responses():
    own = Agent(OpenAIResponsesModel(FAST, provider=provider), model_settings={"max_tokens": 24, "temperature": 0.0})
    assert "Paris" in (await own.run(QUESTION)).output
    formed = Agent(
        OpenAIResponsesModel(FAST, provider=provider), output_type=NativeOutput(Forecast), model_settings=SETTINGS
    )
    assert isinstance((await formed.run("A forecast for Paris")).output, Forecast)


@check("prompt too long")
def context():
    error = expect(ModelHTTPError, lambda: agent(FAST).run_sync(TOO_LONG))
    assert error.status_code == 400
    assert error.body["code"] == "context_length_exceeded", error.body


finish()
