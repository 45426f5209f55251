"""Prompts that are read in steps, on a small random model whose caches hold states as well as keys and values."""

from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from agents.inference.mlx.prefill import ScoredPrefill, SharedPrefill
from tests.agents.inference import hybrid

TOKENS = [5, 9, 9, 31, 7, 64, 2, 11, 80, 3, 5]


@pytest.fixture(scope="module")
def model() -> Any:
    return hybrid.build(quantized=False)


@pytest.mark.parametrize("step", [1, 4, 64])
def test_a_text_is_scored_alike_in_one_step_and_in_several(model: Any, step: int) -> None:
    prefill = ScoredPrefill(model, TOKENS, cache=make_prompt_cache(model), top=3)
    steps = 1
    while not prefill.advance(step):
        steps += 1
    assert steps == -(-(len(TOKENS) - 1) // step)
    logits = model(mx.array([TOKENS]))[0]
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    assert [token for token, _, _ in prefill.scored_tokens] == TOKENS[1:]
    for at, (token, logprob, best) in enumerate(prefill.scored_tokens):
        assert logprob == pytest.approx(float(logprobs[at, token]), abs=1e-4)
        assert [value for _, value in best] == pytest.approx(sorted(logprobs[at].tolist())[:-4:-1], abs=1e-4)


def test_a_text_of_one_token_is_done_at_once(model: Any) -> None:
    prefill = ScoredPrefill(model, TOKENS[:1], cache=make_prompt_cache(model))
    assert prefill.advance(4)
    assert prefill.scored_tokens == []


def test_known_tokens_are_not_read_again(model: Any) -> None:
    cache = make_prompt_cache(model)
    first = SharedPrefill(model, TOKENS[:4], cache=cache)
    assert first.advance(4)
    second = SharedPrefill(model, TOKENS, cache=cache, known_tokens=4)
    assert not second.advance(4)
    assert (second.known_tokens, second.done) == (4, 8)
    assert second.advance(4)
    assert second.done == len(TOKENS)
