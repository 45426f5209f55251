"""Int8 weights behind the running engine: batches, adapters, training, neurons and attributions."""

from collections.abc import AsyncIterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load

from agents.inference.adapters.bank import AdapterBank
from agents.inference.adapters.mixed import RoutedModel
from agents.inference.int8 import layers as int8_layers
from agents.inference.int8.layers import Int8Linear
from agents.inference.knowbias.enhancement import enhance
from agents.inference.knowbias.gates import gates
from agents.inference.knowbias.neurons import Neurons
from agents.inference.probing.attribution import Attribution
from agents.inference.settings import InferenceSettings
from bus.connection import Bus
from bus.storage import objects
from schemas.calls import ADAPTERS_EXPORT, ADAPTERS_PROTECT, ADAPTERS_TRAIN
from schemas.consolidation import Example, ExportRequest, ProtectRequest, TrainRequest
from tests.agents.inference.mlx.test_engine import SETS, ask, ask_set, generate_in_one_batch

pytestmark = pytest.mark.anyio

QUESTIONS = ("What is the capital of France?", "What is two plus two?", "Name a colour of the rainbow.")


@pytest.fixture(scope="module")
async def int8_engine(int8_settings: InferenceSettings) -> AsyncIterator[Any]:
    """A running engine with int8 weights."""
    from agents.inference.mlx.engine import MlxEngine

    running = MlxEngine(int8_settings)
    await running.start()
    yield running
    await running.stop()


async def answer(engine: Any, request: Any) -> Any:
    """The candidate of a request that finds no kept prompt."""
    engine.forget()
    (candidate,) = (await engine.generate(request)).candidates
    return candidate


async def test_the_status_says_that_weights_are_int8(int8_engine: Any, engine: Any) -> None:
    assert int8_engine.info["weights"] == "int8"
    assert engine.info["weights"] == "float32"
    modules = int8_engine.thread.decoder.bank.modules
    assert sum(type(module) is Int8Linear for module in modules.values()) == 7 * 30


async def test_candidates_of_a_batch_are_those_of_each_alone(int8_engine: Any) -> None:
    requests = [ask(question, sampling={"max_tokens": 8}) for question in QUESTIONS]
    alone = [await answer(int8_engine, request) for request in requests]
    int8_engine.forget()
    outcomes = await generate_in_one_batch(int8_engine, *requests)
    assert len({candidate.text for candidate in alone}) == len(QUESTIONS)
    assert [outcome.candidates[0].text for outcome in outcomes] == [candidate.text for candidate in alone]
    for outcome, candidate in zip(outcomes, alone, strict=True):
        assert outcome.candidates[0].logprob == pytest.approx(candidate.logprob, abs=0.05)


async def test_no_adapter_restores_the_base_exactly(int8_engine: Any) -> None:
    before = await answer(int8_engine, ask_set(()))
    changed = await answer(int8_engine, ask_set(SETS[1]))
    after = await answer(int8_engine, ask_set(()))
    assert changed.text != before.text
    assert [use.name for use in changed.adapters] == ["one"]
    assert (after.text, after.logprob) == (before.text, before.logprob)


async def test_two_adapters_of_one_batch_answer_as_each_alone(int8_engine: Any) -> None:
    alone = [await answer(int8_engine, ask_set(uses)) for uses in SETS[:3]]
    int8_engine.forget()
    outcomes = await generate_in_one_batch(int8_engine, *(ask_set(uses) for uses in SETS[:3]))
    mixed = [outcome.candidates[0] for outcome in outcomes]
    assert len({candidate.text for candidate in alone}) == 3
    assert [candidate.text for candidate in mixed] == [candidate.text for candidate in alone]
    assert [candidate.adapters for candidate in mixed] == [candidate.adapters for candidate in alone]


async def test_training_lowers_the_loss_and_leaves_the_model_alone(int8_engine: Any, bus: Bus) -> None:
    verbs = {endpoint.verb: endpoint.handle for endpoint in int8_engine.consolidation(bus, "").endpoints()}
    before = await answer(int8_engine, ask_set(()))
    exported: Any = await verbs[ADAPTERS_EXPORT.verb](ExportRequest(name="one"))
    reply: Any = await verbs[ADAPTERS_TRAIN.verb](
        TrainRequest(
            name="one",
            weights=exported.weights,
            examples=(Example(context="What is the capital of France?", outcome="Lyon it is."),),
            passes=4,
            learning_rate=3e-3,
            flops=1e15,
            seconds=100.0,
        )
    )
    assert reply.steps == 4
    assert reply.loss_after < 0.9 * reply.loss_before
    old, new = [load(await objects.get(bus, name, param="weights")) for name in (exported.weights, reply.weights)]
    assert all(not np.array_equal(old[name], new[name]) for name in old)
    after = await answer(int8_engine, ask_set(()))
    assert (after.text, after.logprob) == (before.text, before.logprob)


async def test_protected_directions_are_those_of_the_int8_weights(int8_engine: Any, bus: Bus) -> None:
    verbs = {endpoint.verb: endpoint.handle for endpoint in int8_engine.consolidation(bus, "").endpoints()}
    reply: Any = await verbs[ADAPTERS_PROTECT.verb](ProtectRequest(name="one", k=2))
    directions = load(await objects.get(bus, reply.directions, param="directions"))
    assert len(directions) == 2 * 2 * 30
    path = "model.layers.3.self_attn.v_proj"
    weight = await int8_engine.thread.ask(lambda: np.array(int8_engine.thread.decoder.bank.modules[path].wide_weight))
    core = directions[f"{path}.left"].T @ weight.T @ directions[f"{path}.right"]
    sizes = np.linalg.svd(weight.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(np.linalg.svd(core, compute_uv=False), sizes[:2], rtol=1e-3)


async def test_attributions_are_finite_and_not_zero(int8_engine: Any) -> None:
    before = await answer(int8_engine, ask_set(()))

    def attribute() -> Any:
        model = int8_engine.thread.decoder.bank.model
        projections = gates(model)
        assert len(projections) == 30
        return np.array(Attribution(model, projections[10:30:18], steps=4)([504, 3575, 282, 4649, 314], 7042))

    attributions = await int8_engine.thread.ask(attribute)
    assert attributions.shape == (2, 1536)
    assert np.isfinite(attributions).all()
    assert (np.abs(attributions).max(axis=1) > 0.0).all()
    after = await answer(int8_engine, ask_set(()))
    assert (after.text, after.logprob) == (before.text, before.logprob)


async def test_a_factor_changes_the_logits_of_its_row_and_a_cover_alone_does_not(
    int8_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_layers, "WIDEN_FROM", 1)  # rounding would hide whether a cover alone changes something
    model = int8_bundle.model
    bank = AdapterBank(model, None, budget=0)
    covered_gates = {gate.path: tuple(range(0, 1536, 64)) for gate in gates(model)[4:20]}
    neurons = Neurons(
        model="m", model_digest="d", questions="q", prompts=1, steps=20, threshold=0.1, share=0.49, gates=covered_gates
    )
    routed, tokens = RoutedModel(model, bank.rows), mx.array([[504, 3575, 282, 4649]] * 2)

    def read_rows(*factors: float) -> Any:
        layers = zip(*[routed.make_cache(factor=factor) for factor in factors], strict=True)
        return np.array(routed(tokens, cache=[layer[0].merge(layer) for layer in layers]))

    plain = read_rows(1.0, 1.0)
    enhance(bank.places, neurons, bank.rows)
    try:
        np.testing.assert_allclose(read_rows(1.0, 1.0), plain, atol=2e-3)
        mixed = read_rows(4.0, 1.0)
    finally:
        for path in covered_gates:
            bank.places.uncover(path)
    np.testing.assert_allclose(mixed[1], plain[1], atol=2e-3)
    assert np.abs(mixed[0] - plain[0]).max() > 0.1
    np.testing.assert_array_equal(read_rows(1.0, 1.0), plain)
