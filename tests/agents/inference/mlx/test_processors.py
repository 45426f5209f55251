"""Penalties against their definitions, and the decoding options on the real model."""

import json
from typing import Any

import jsonschema
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.inference.mlx.processors import Penalties
from schemas.chat import Sampling
from schemas.errors import InvalidInput
from tests.agents.inference.mlx.test_engine import PARIS, ask, generate_together

pytestmark = pytest.mark.anyio

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "people": {"type": "integer", "maximum": 99}},
    "required": ["city", "people"],
    "additionalProperties": False,
}


@settings(max_examples=30)
@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=6),
    st.lists(st.integers(0, 7), max_size=6),
    st.floats(0.5, 2.0),
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.dictionaries(st.integers(0, 7).map(str), st.floats(-100, 100)),
)
def test_penalties_equal_the_reference(
    prompt: list[int], answer: list[int], repetition: float, presence: float, frequency: float, bias: dict[str, float]
) -> None:
    sampling = Sampling(
        repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency, logit_bias=bias
    )
    logits = np.linspace(-2, 2, 8, dtype=np.float32)
    process = Penalties(sampling, prompt)
    for length in range(len(answer) + 1):
        result = process(mx.array(prompt + answer[:length]), mx.array(logits)[None])
    expected = logits.copy()
    for token in set(prompt + answer):
        expected[token] = expected[token] / repetition if expected[token] > 0 else expected[token] * repetition
    for token in set(answer):
        expected[token] -= presence + frequency * answer.count(token)
    for name, value in bias.items():
        expected[int(name)] += value
    np.testing.assert_allclose(result[0], expected, rtol=1e-3, atol=1e-3)


async def test_frequency_penalty_makes_words_vary(engine: Any) -> None:
    (plain, varied) = await generate_together(
        engine,
        ask("Say ha ten times: ha ha ha ha", sampling={"max_tokens": 24}),
        ask("Say ha ten times: ha ha ha ha", sampling={"max_tokens": 24, "frequency_penalty": 2.0}),
    )
    words = [outcome.candidates[0].text.split() for outcome in (plain, varied)]
    assert len(set(words[1])) / len(words[1]) > len(set(words[0])) / len(words[0])


async def test_bias_forbids_and_forces_a_token(engine: Any) -> None:
    (paris,) = engine.encoder.encode_plain(" Paris")
    (rome,) = engine.encoder.encode_plain(" Rome")
    sampling = {"logit_bias": {str(paris): -100.0}}
    forbidden = (await engine.generate(ask(sampling=sampling))).candidates[0]
    assert "Paris" not in forbidden.text
    outcome = await engine.generate(ask(sampling={"logit_bias": {str(rome): 100.0}, "max_tokens": 3}))
    assert outcome.candidates[0].text.strip() == "Rome Rome Rome"


async def test_neighbours_of_a_biased_row_answer_as_before(engine: Any) -> None:
    request = ask(sampling={"logit_bias": {"5": 100.0}, "repetition_penalty": 1.5})
    _, plain = await generate_together(engine, request, ask())
    assert plain.candidates[0].text == PARIS
    assert plain.candidates[0].tokens == ()


async def test_logprobs_come_with_each_token(engine: Any) -> None:
    (candidate,) = (await engine.generate(ask(sampling={"logprobs": True, "top_logprobs": 3}))).candidates
    assert "".join(token.token for token in candidate.tokens) == PARIS
    assert len(candidate.tokens) == candidate.usage.completion_tokens - 1
    for token in candidate.tokens:
        assert token.top[0].logprob == pytest.approx(token.logprob, abs=1e-4), "greedy takes the likeliest"
        assert token.top[0].token == token.token
        assert [top.logprob for top in token.top] == sorted((top.logprob for top in token.top), reverse=True)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.5, "seed": 4}])
async def test_constrained_answers_follow_their_schema(engine: Any, sampling: dict[str, Any]) -> None:
    request = ask(
        "Which city, and how many people?",
        n=2,
        sampling={"max_tokens": 60, "json_schema": json.dumps(SCHEMA), **sampling},
    )
    outcome, plain = await generate_together(engine, request, ask())
    for candidate in outcome.candidates:
        assert candidate.finish_reason == "stop"
        jsonschema.validate(json.loads(candidate.text), SCHEMA)
    assert plain.candidates[0].text == PARIS


FLAG = {"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer"}}, "required": ["ok", "n"]}
PROMPTS = ("hello", "hi", "What is 2+2?", "Is the sky blue?", "Tell me a joke.", "Name a colour.", "Bonjour",
           "Who are you?", "List three fruits.", "Write a poem about the sea.")  # fmt: skip


async def test_small_answers_of_a_schema_end_within_their_tokens(engine: Any) -> None:
    sampling = {"max_tokens": 64, "json_schema": json.dumps(FLAG)}
    outcomes = await generate_together(engine, *(ask(prompt, sampling=sampling) for prompt in PROMPTS))
    for outcome in outcomes:
        (candidate,) = outcome.candidates
        assert candidate.finish_reason == "stop"
        jsonschema.validate(json.loads(candidate.text), {**FLAG, "additionalProperties": False})
        assert not set(" \n") & set(candidate.text)


@pytest.mark.parametrize("schema", ["{", '{"type": "nothing"}', '{"$ref": "#/nowhere"}', '{"$ref": "#"}'])
async def test_a_schema_that_cannot_constrain_is_refused(engine: Any, schema: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await engine.generate(ask(sampling={"json_schema": schema}))
    assert caught.value.param == "response_format"
    assert "\n" not in caught.value.message
