"""The factor on neurons in the running engine: per request, in mixed batches, beside kept prompts; nothing when off."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.inference.knowbias import neurons
from agents.inference.knowbias.enhancement import EnhancedGate
from agents.inference.knowbias.neurons import Neurons
from agents.inference.requests import Request
from agents.inference.settings import InferenceSettings
from schemas.chat import Sampling
from schemas.errors import SetupError
from tests.agents.inference.mlx.test_engine import ask, generate_in_one_batch

pytestmark = pytest.mark.anyio

QUESTION = "Name a colour of the rainbow."
SHORT = {"max_tokens": 6}
"""Enough tokens for a factor to show in their log-probabilities."""


def some_neurons(**changes: Any) -> Neurons:
    gates = {f"model.layers.{layer}.mlp.gate_proj": tuple(range(0, 1536, 64)) for layer in range(4, 20)}
    default = Neurons(
        model="smollm2",
        model_digest="digest",
        questions="q",
        prompts=1,
        steps=20,
        threshold=0.1,
        share=0.49,
        gates=gates,
    )
    return msgspec.structs.replace(default, **changes)


@pytest.fixture(scope="module")
async def enhancing(settings: InferenceSettings, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    """An engine with neurons and a factor that shows."""
    from agents.inference.mlx.engine import MlxEngine

    path = tmp_path_factory.mktemp("neurons") / "knowbias.json"
    neurons.write_neurons(path, some_neurons())
    running = MlxEngine(msgspec.structs.replace(settings, knowbias=path, knowbias_factor=4.0))
    await running.start()
    yield running
    await running.stop()


async def test_without_neurons_nothing_stands_in_the_path(engine: Any) -> None:
    assert not any(
        isinstance(module, EnhancedGate) for _, module in engine.thread.decoder.batch._model._model.named_modules()
    )
    (candidate,) = (await engine.generate(ask(QUESTION, enhance=True, sampling=SHORT))).candidates
    (plain,) = (await engine.generate(ask(QUESTION, sampling=SHORT))).candidates
    assert (candidate.text, candidate.factor) == (plain.text, 1.0)
    assert candidate.logprob == pytest.approx(plain.logprob, abs=1e-4)


async def test_rows_of_one_batch_are_enhanced_or_not_as_each_asks(engine: Any, enhancing: Any) -> None:
    request, enhancing_request = ask(QUESTION, sampling=SHORT), ask(QUESTION, enhance=True, sampling=SHORT)
    (plain,) = (await engine.generate(request)).candidates
    (alone,) = (await enhancing.generate(enhancing_request)).candidates
    outcomes = await generate_in_one_batch(enhancing, request, enhancing_request, request)
    first, second, third = (outcome.candidates[0] for outcome in outcomes)
    assert first.text == third.text == plain.text
    assert first.logprob == pytest.approx(plain.logprob, abs=1e-4)
    assert second.text == alone.text
    assert second.logprob == pytest.approx(alone.logprob, abs=1e-4)
    assert abs(alone.logprob - plain.logprob) > 1e-2
    assert (first.factor, second.factor) == (1.0, 4.0)


async def test_a_prompt_kept_under_a_factor_serves_no_other(engine: Any, enhancing: Any) -> None:
    request = ask("Name three metals.", sampling=SHORT)
    enhancing_request = replace(request, enhance=True)
    whole = len(enhancing.encoder.encode(request.messages).tokens) - 2  # the last is decoded, one more may be cut
    await enhancing.generate(enhancing_request)
    assert (
        await _count_known_tokens(enhancing, request) < whole
    )  # no more than the beginning that it shares with other prompts
    assert await _count_known_tokens(enhancing, request) >= whole
    assert await _count_known_tokens(enhancing, enhancing_request) >= whole
    (candidate,) = (await enhancing.generate(request)).candidates
    (plain,) = (await engine.generate(request)).candidates
    assert (candidate.text, candidate.logprob) == (plain.text, pytest.approx(plain.logprob, abs=1e-4))


async def _count_known_tokens(engine: Any, request: Request) -> float:
    """Tokens of the request's prompt that were not processed again."""
    before = engine.gauges["prefix_tokens_total"]
    await engine.generate(replace(request, sampling=Sampling(max_tokens=1)))
    return float(engine.gauges["prefix_tokens_total"] - before)


async def test_choices_are_scored_with_the_factor(enhancing: Any) -> None:
    plain = await enhancing.generate(ask(QUESTION, choices=("Red", "Blue")))
    changed = await enhancing.generate(ask(QUESTION, choices=("Red", "Blue"), enhance=True))
    assert plain.scores != changed.scores


async def test_neurons_of_another_model_stop_the_start(settings: InferenceSettings, tmp_path: Path) -> None:
    from agents.inference.mlx.engine import MlxEngine

    neurons.write_neurons(tmp_path / "n.json", some_neurons(model_digest="other"))
    running = MlxEngine(msgspec.structs.replace(settings, knowbias=tmp_path / "n.json"))
    with pytest.raises(SetupError, match="kiki knowbias probe"):
        await running.start()
    await running.stop()
