"""Numbers that run over: the ranges of a request keep them finite, and what is not finite all the same is an error."""

import math
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from agents.inference.mlx.processors import Penalties
from agents.inference.requests import DecodingOutcome
from agents.inference.text import Piece
from schemas.chat import Sampling
from schemas.errors import StageFailed
from schemas.findings import Candidate, Echo, LikelyToken, TokenLogprob
from tests.agents.inference.mlx.test_engine import PARIS, ask, generate_together
from tests.agents.scripted import degraded_count

pytestmark = pytest.mark.anyio

OVERFLOWING = {"repetition_penalty": 1e-40}
"""No request can hold it: what the worker reads from the bus has a range."""

EXTREMES: list[dict[str, Any]] = [
    {"repetition_penalty": 0.01},
    {"repetition_penalty": 2.0},
    {"presence_penalty": -2.0, "frequency_penalty": -2.0},
    {"presence_penalty": 2.0, "frequency_penalty": 2.0, "repetition_penalty": 0.01},
    {"logit_bias": {str(token): 100.0 for token in range(300)}, "repetition_penalty": 0.01},
    {"logit_bias": {"0": -100.0, "1": 5e-324}},
    {"temperature": 5e-324},
    {"temperature": 1e-40},
    {"temperature": 2.0, "top_p": 5e-324},
    {"temperature": 2.0, "top_p": 1e-40},
    {"temperature": 2.0, "min_p": 5e-324},
    {"temperature": 2.0, "min_p": 1.0, "top_k": 1000},
    {"temperature": 2.0, "seed": 2**63 - 1},
]


@pytest.mark.parametrize("extreme", EXTREMES, ids=str)
async def test_the_ends_of_every_range_give_finite_log_probabilities(engine: Any, extreme: dict[str, Any]) -> None:
    outcome = await engine.generate(ask(n=2, sampling={**extreme, "logprobs": True, "top_logprobs": 20}))
    tokens = [token for candidate in outcome.require_finite().candidates for token in candidate.tokens]
    assert all(math.isfinite(token.logprob) for token in tokens)


@pytest.mark.parametrize("extreme", [{"temperature": 1e-40}, {"top_p": 1e-40, "temperature": 2.0}], ids=str)
async def test_next_to_no_choice_is_none(engine: Any, extreme: dict[str, Any]) -> None:
    outcome = await engine.generate(ask(sampling=extreme))
    assert outcome.candidates[0].text == PARIS


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
@pytest.mark.parametrize("frequency", [-2.0, 2.0])
def test_a_token_that_came_a_million_times_stays_a_number(dtype: Any, frequency: float) -> None:
    process = Penalties(Sampling(frequency_penalty=frequency, repetition_penalty=0.01), [1])
    logits = mx.array([[40.0, -40.0, 500.0, -500.0]]).astype(dtype)
    process(mx.array([1]), logits)
    assert process._counts is not None
    process._counts = process._counts + 2.0**20
    changed = process(mx.array([1, 2]), logits)
    logprobs = changed - mx.logsumexp(changed, axis=-1, keepdims=True)
    assert np.isfinite(np.array(logprobs.astype(mx.float32))).all()


async def test_a_log_probability_that_is_none_ends_its_request_alone_and_is_counted(engine: Any) -> None:
    before, pieces = degraded_count("inference.not_finite"), []

    async def hear(piece: Piece) -> None:
        pieces.append(piece)

    with pytest.raises(StageFailed, match="not finite") as refusal:
        await engine.generate(ask(sampling={**OVERFLOWING, "max_tokens": 200}), hear)
    assert (refusal.value.code, refusal.value.retryable) == ("inference_failed", False)
    assert pieces == []
    assert degraded_count("inference.not_finite") == before + 1
    (outcome,) = await generate_together(engine, ask())
    assert outcome.candidates[0].text == PARIS


async def test_a_neighbour_in_the_batch_is_served(engine: Any) -> None:
    errors: list[StageFailed] = []

    class Both:
        async def generate(self, request: Any) -> Any:
            try:
                return await engine.generate(request)
            except StageFailed as error:
                errors.append(error)

    _, good = await generate_together(Both(), ask(sampling=OVERFLOWING, n=2), ask())
    assert good.candidates[0].text == PARIS
    assert len(errors) == 1
    assert engine.gauges["active_rows"] == 0


def token(logprob: float, *top: float) -> TokenLogprob:
    likely = tuple(LikelyToken(token="b", logprob=each) for each in top)
    return TokenLogprob(token="a", logprob=logprob, top=likely)


@pytest.mark.parametrize(
    "outcome",
    [
        DecodingOutcome(candidates=(Candidate(text="a"), Candidate(text="a", logprob=math.nan))),
        DecodingOutcome(candidates=(Candidate(text="a", tokens=(token(-math.inf),)),)),
        DecodingOutcome(candidates=(Candidate(text="a", tokens=(token(-1.0, -1.0, math.nan),)),)),
        DecodingOutcome(candidates=(Candidate(text="a"),), echo=Echo(text="a", tokens=(token(math.nan),))),
        DecodingOutcome(scores=((-1.0, -2.0), (-1.0, math.inf))),
    ],
)
def test_an_outcome_with_a_number_that_is_none_goes_no_further(outcome: DecodingOutcome) -> None:
    with pytest.raises(StageFailed, match="not finite"):
        outcome.require_finite()
