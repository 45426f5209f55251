"""Instructor: answers as models, in each of its modes."""

import instructor
import openai
from harness import DEFAULT, FAST, KEY, URL, check, finish
from models import Forecast, Place
from pydantic import BaseModel


class Rain(BaseModel):
    """Whether it rains somewhere. Without an enum, which partial models take from no stream."""

    place: Place
    rain: bool


ASKED = [{"role": "user", "content": "A forecast for Paris"}]


def ask(mode, model=DEFAULT):
    """A forecast in that mode, asked once."""
    client = instructor.from_openai(openai.OpenAI(base_url=URL, api_key=KEY, max_retries=0), mode=mode)
    return client.create(
        model=model, messages=ASKED, response_model=Forecast, max_retries=0, max_tokens=120, temperature=0
    )


@check("tools")
def tools():
    assert isinstance(ask(instructor.Mode.TOOLS), Forecast)


@check("strict tools")
def strict():
    assert isinstance(ask(instructor.Mode.TOOLS_STRICT), Forecast)


@check("schema")
def schema():
    assert isinstance(ask(instructor.Mode.JSON_SCHEMA), Forecast)


@check("partial models from a stream")
def partial():
    client = instructor.from_openai(openai.OpenAI(base_url=URL, api_key=KEY, max_retries=0))
    states = list(
        client.create_partial(
            model=FAST, messages=ASKED, response_model=Rain, max_retries=0, max_tokens=120, temperature=0
        )
    )
    assert Rain.model_validate(states[-1].model_dump())


@check("completion beside the model")
def with_completion():
    client = instructor.from_openai(openai.OpenAI(base_url=URL, api_key=KEY, max_retries=0))
    forecast, completion = client.create_with_completion(
        model=FAST, messages=ASKED, response_model=Forecast, max_retries=0, max_tokens=120, temperature=0
    )
    assert isinstance(forecast, Forecast)
    assert completion.usage.completion_tokens <= 120


finish()
