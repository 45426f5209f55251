"""The default model behind the engine: tools by its own template, no reasoning, French with its accents."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agents.inference.requests import Request
from agents.inference.settings import InferenceSettings
from agents.inference.text import Piece
from runtime.models import prepare
from runtime.settings import DEFAULT_MODEL
from schemas.chat import Tooling
from schemas.findings import Candidate
from tests.agents.inference.mlx.test_engine import ask
from tests.agents.inference.test_tools import DIALOGUE, TOOLS, WEATHER

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def default_engine() -> AsyncIterator[Any]:
    """One engine for all tests of this module; loading the model is what takes the time."""
    from agents.inference.mlx.engine import MlxEngine

    running = MlxEngine(InferenceSettings(model=prepare(DEFAULT_MODEL), model_name=DEFAULT_MODEL))
    await running.start()
    yield running
    await running.stop()


async def generate(engine: Any, request: Request) -> tuple[Candidate, list[str]]:
    """The one candidate, and its text in the pieces in which it was streamed."""
    pieces: list[str] = []

    async def hear(piece: Piece) -> None:
        pieces.append(piece.text)

    (candidate,) = (await engine.generate(request, hear)).candidates
    assert "".join(pieces) == candidate.text
    return candidate, pieces


async def test_the_template_writes_tools_calls_and_results_itself(default_engine: Any) -> None:
    encoder = default_engine.encoder
    text = encoder._tokenizer.decode(encoder.encode(DIALOGUE, TOOLS).tokens)
    system, question, call, result, opening = text.split("<|im_start|>")[1:]
    assert "# Tools\n\nYou may call one or more functions" in system
    assert "You may call tools. Each is described" not in system
    tools = system.split("<tools>\n")[1].split("\n</tools>")[0].splitlines()
    assert [json.loads(tool)["function"]["name"] for tool in tools] == ["get_weather", "add"]
    assert question == "user\nWeather in Paris?<|im_end|>\n"
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>' in call
    assert result == "user\n<tool_response>\nSunny.\n</tool_response><|im_end|>\n"
    assert opening == "assistant\n"
    assert "<think>" not in text


@pytest.mark.parametrize("forced", ["get_weather", None], ids=["forced", "auto"])
async def test_a_call_has_the_arguments_of_the_question(default_engine: Any, forced: str | None) -> None:
    tooling = Tooling(tools=(WEATHER,), forced=forced)
    request = ask("What is the weather in Paris?", tooling=tooling, sampling={"max_tokens": 48})
    candidate, _ = await generate(default_engine, request)
    (call,) = candidate.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
    assert (candidate.finish_reason, candidate.text) == ("tool_calls", "")


@pytest.mark.parametrize(
    ("question", "beginning"),
    [
        ("Quel est le contraire de « grand » ?", "Le contraire de"),
        ("Quelle est la couleur du ciel en été ?", "La couleur du ciel en été"),
    ],
)
async def test_a_french_question_has_a_french_answer(default_engine: Any, question: str, beginning: str) -> None:
    candidate, pieces = await generate(default_engine, ask(question, sampling={"max_tokens": 16}))
    assert candidate.text.startswith(beginning)
    assert len(pieces) > 4, "it is streamed as it is decoded"


async def test_characters_that_take_several_tokens_are_streamed_whole(default_engine: Any) -> None:
    text = "Ça coûte 5 € à l'été, cœur brûlé 🫎"
    assert len(default_engine.encoder.encode_plain("🫎")) > 1
    request = ask("Dis-le.", sampling={"max_tokens": 48, "json_schema": json.dumps({"enum": [text]})})
    candidate, pieces = await generate(default_engine, request)
    assert json.loads(candidate.text) == text
    assert not any("\ufffd" in piece for piece in pieces)
