"""The OpenAI Agents SDK, over the chat endpoint and over responses."""

from harness import DEFAULT, FAST, KEY, QUESTION, URL, check, finish
from models import Forecast
from openai import AsyncOpenAI

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)

set_tracing_disabled(True)


def agent(kind, name, **more):
    """An agent over the endpoint of that kind."""
    model = kind(model=name, openai_client=AsyncOpenAI(base_url=URL, api_key=KEY, timeout=60, max_retries=0))
    settings = more.pop("settings", ModelSettings(max_tokens=120, temperature=0))
    return Agent(name="Guide", instructions="Be brief.", model=model, model_settings=settings, **more)


@check("chat")
async def chat():
    assert "Paris" in (await Runner.run(agent(OpenAIChatCompletionsModel, DEFAULT), QUESTION)).final_output


@check("chat from a stream")
async def stream():
    result = Runner.run_streamed(agent(OpenAIChatCompletionsModel, DEFAULT), QUESTION)
    kinds = {event.type async for event in result.stream_events()}
    assert "raw_response_event" in kinds
    assert "Paris" in result.final_output


@check("chat answers in a nested model")
async def output():
    result = await Runner.run(agent(OpenAIChatCompletionsModel, DEFAULT, output_type=Forecast), "Paris")
    assert isinstance(result.final_output, Forecast)


@check("chat calls a tool")
async def tool():
    called = []

    @function_tool
    def ring_bell() -> str:
        """Ring the bell."""
        called.append(True)
        return "it rang"

    settings = ModelSettings(max_tokens=32, temperature=0, tool_choice="required")
    result = await Runner.run(
        agent(OpenAIChatCompletionsModel, FAST, tools=[ring_bell], settings=settings), "Ring the bell.", max_turns=3
    )
    assert called
    assert result.final_output


@check("responses")
async def responses():
    result = await Runner.run(agent(OpenAIResponsesModel, DEFAULT), QUESTION)
    assert "Paris" in result.final_output
    followed = await Runner.run(
        agent(OpenAIResponsesModel, FAST), [*result.to_input_list(), {"role": "user", "content": "Why?"}]
    )
    assert followed.final_output


@check("responses from a stream")
async def responses_stream():
    result = Runner.run_streamed(agent(OpenAIResponsesModel, FAST), QUESTION)
    async for _ in result.stream_events():
        pass
    assert "Paris" in result.final_output


@check("responses answer in a nested model")
async def responses_output():
    result = await Runner.run(agent(OpenAIResponsesModel, FAST, output_type=Forecast), "Paris")
    assert isinstance(result.final_output, Forecast)


finish()
