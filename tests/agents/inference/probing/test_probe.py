"""Finding neurons and putting a factor on them, on a small random model of Qwen3.6's architecture."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec
import pytest

from agents.inference.adapters.bank import AdapterBank
from agents.inference.adapters.mixed import RoutedModel
from agents.inference.knowbias import neurons
from agents.inference.knowbias.enhancement import enhance
from agents.inference.knowbias.gates import GateProjection, gates
from agents.inference.knowbias.neurons import Neurons, NeuronTally, check_fit
from agents.inference.probing import questions
from agents.inference.probing.attribution import Attribution
from schemas.errors import SetupError
from schemas.findings import AdapterUse
from tests.agents.inference import hybrid

PROMPT, ANSWER = [3, 14, 15, 92, 65], 35
PAIR = (GateProjection(path="a", layer=0, width=3), GateProjection(path="b", layer=1, width=3))


@pytest.fixture(params=[False, True], ids=["float32", "4bit"])
def model(request: pytest.FixtureRequest) -> Any:
    return hybrid.build(quantized=request.param)


def new_neurons(**changes: Any) -> Neurons:
    default = Neurons(
        model="m", model_digest="d", questions="q", prompts=2, steps=20, threshold=0.1, share=0.49, gates={"a": (1,)}
    )
    return msgspec.structs.replace(default, **changes)


def probability(model: Any) -> float:
    logits = model(mx.array([PROMPT]))[0, -1]
    return float(mx.softmax(logits.astype(mx.float32))[ANSWER])


@contextlib.contextmanager
def silence(model: Any, gate: GateProjection) -> Iterator[None]:
    """Set the gate's output at the last token to zero."""
    parent = dict(model.named_modules())[gate.path.rpartition(".")[0]]
    base, mask = parent["gate_proj"], mx.array([1.0] * (len(PROMPT) - 1) + [0.0])[None, :, None]
    parent["gate_proj"] = lambda x: base(x) * mask
    try:
        yield
    finally:
        parent["gate_proj"] = base


def test_the_gates_are_those_of_the_shared_experts(model: Any) -> None:
    projections = gates(model)
    assert [gate.layer for gate in projections] == [0, 1, 2, 3]
    assert all(gate.path.endswith("mlp.shared_expert.gate_proj") and gate.width == 64 for gate in projections)


def test_attributions_add_up_to_what_the_gate_does_to_the_answer(model: Any) -> None:
    """Of the last gate: behind the others experts are chosen, and a choice that changes has no gradient."""
    last = gates(model)[-1]
    attributions = Attribution(model, [last], steps=100)(PROMPT, ANSWER)
    full = probability(model)
    with silence(model, last):
        silent = probability(model)
    assert abs(full - silent) > 1e-6
    assert float(attributions.sum()) == pytest.approx(full - silent, rel=0.1)


def test_fewer_steps_at_once_find_the_same_and_the_model_is_left_as_it_was(model: Any) -> None:
    before = model(mx.array([PROMPT]))
    calls: list[None] = []
    whole = Attribution(model, gates(model))(PROMPT, ANSWER, on_advance=lambda: calls.append(None))
    parts = Attribution(model, gates(model), at_once=6)(PROMPT, ANSWER)
    assert len(calls) == 4
    assert bool(mx.allclose(whole, parts, rtol=1e-3, atol=1e-7))
    assert bool(mx.array_equal(model(mx.array([PROMPT])), before))


def test_a_neuron_is_kept_when_it_matters_for_enough_prompts() -> None:
    tally = NeuronTally(PAIR, threshold=0.1)
    assert tally.select_shared() == {}
    tally.add(mx.array([[1.0, 0.05, -9.0], [0.2, 0.0, 0.0]]))
    tally.add(mx.array([[4.0, 0.50, 0.41], [0.2, 0.0, 0.3]]))
    assert tally.select_shared(0.49) == {"a": (0, 1, 2), "b": (0,)}
    assert tally.select_shared(0.5) == {"a": (0,)}


def test_neurons_are_kept_and_read_again(tmp_path: Path) -> None:
    neurons.write_neurons(tmp_path / "new" / "n.json", new_neurons())
    assert neurons.read_neurons(tmp_path / "new" / "n.json") == new_neurons()


@pytest.mark.parametrize("content", [None, "{}", "no json"])
def test_a_file_that_holds_no_neurons_says_what_to_do(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "n.json").write_text(content)
    with pytest.raises(SetupError, match="prob") as caught:
        neurons.read_neurons(tmp_path / "n.json")
    assert caught.value.param == "knowbias"


def test_neurons_of_another_model_are_refused() -> None:
    assert check_fit(new_neurons(), PAIR, model_digest="d") == new_neurons()
    with pytest.raises(SetupError, match="kiki knowbias probe"):
        check_fit(new_neurons(), PAIR, model_digest="e")
    with pytest.raises(SetupError, match="no such neurons in a"):
        check_fit(new_neurons(gates={"a": (3,)}), PAIR, model_digest="d")
    with pytest.raises(SetupError, match="no such neurons in c"):
        check_fit(new_neurons(gates={"c": (0,)}), PAIR, model_digest="d")


def logits(model: RoutedModel, *factors: float) -> mx.array:
    """Logits (rows, tokens, vocabulary) of one batch whose rows have these factors."""
    layers = zip(*[model.make_cache(factor=factor) for factor in factors], strict=True)
    return model(mx.array([PROMPT] * len(factors)), cache=[layer[0].merge(layer) for layer in layers])


@pytest.fixture
def bank(model: Any) -> AdapterBank:
    return AdapterBank(model, None, budget=0)


def enhance_gates(bank: AdapterBank, projections: Sequence[GateProjection]) -> RoutedModel:
    enhance(bank.places, new_neurons(gates={gate.path: (1, 5, 8) for gate in projections}), bank.rows)
    return RoutedModel(bank.places.base[""], bank.rows)


def test_factor_one_changes_no_bit(model: Any, bank: AdapterBank) -> None:
    plain = logits(RoutedModel(model, bank.rows), 1.0, 1.0)
    assert bool(mx.array_equal(logits(enhance_gates(bank, gates(model)), 1.0, 1.0), plain))


def test_in_a_mixed_batch_each_row_has_its_own_factor(model: Any, bank: AdapterBank) -> None:
    plain = logits(RoutedModel(model, bank.rows), 1.0, 1.0, 1.0)
    routed = enhance_gates(bank, gates(model))
    mixed, doubled = logits(routed, 1.0, 4.0, 2.0), logits(routed, 2.0, 2.0, 2.0)
    assert bool(mx.array_equal(mixed[0], plain[0]))
    assert bool(mx.array_equal(mixed[2], doubled[2]))
    assert float(mx.abs(mixed[1] - plain[1]).max()) > 1e-3
    assert float(mx.abs(mixed[1] - mixed[2]).max()) > 1e-3


def test_a_pass_leaves_no_factor_behind(model: Any, bank: AdapterBank) -> None:
    plain = model(mx.array([PROMPT]))
    logits(enhance_gates(bank, gates(model)), 4.0, 1.0)
    assert bool(mx.array_equal(model(mx.array([PROMPT])), plain))


def test_a_cover_and_an_adapter_stand_in_one_place(model: Any, tmp_path: Path) -> None:
    hybrid.write(tmp_path, model, "one", kinds=("mlp.shared_expert.gate_proj",), seed=1, rank=2, size=0.5)
    bank, projections = AdapterBank(model, tmp_path, budget=2**30), gates(model)
    routed = RoutedModel(model, bank.rows)
    plain = logits(routed, 1.0)
    bank.activate((AdapterUse(name="one"),))
    adapted = logits(routed, 1.0)
    enhance_gates(bank, projections)
    assert bool(mx.array_equal(logits(routed, 1.0), adapted))
    assert not bool(mx.array_equal(logits(routed, 4.0), adapted))
    bank.activate(())
    assert bool(mx.array_equal(logits(routed, 1.0), plain))
    assert not bool(mx.array_equal(logits(routed, 4.0), plain))
    for gate in projections:
        bank.places.uncover(gate.path)
    assert bool(mx.array_equal(logits(routed, 4.0), plain))


def test_the_shipped_questions_are_many_and_balanced() -> None:
    shipped = questions.read_questions()
    groups = {question.group for question in shipped}
    assert len(shipped) >= 200
    assert len({question.question for question in shipped}) == len(shipped)
    assert len(groups) >= 6
    for group in groups:
        for held_out in (False, True):
            answers = [
                question.answer for question in shipped if question.group == group and question.held_out is held_out
            ]
            assert answers.count("yes") == answers.count("no") > 0


@pytest.mark.parametrize("line", ['{"group": "a"}', "no json", '{"group": "a", "question": "b", "answer": "no"}'])
def test_questions_that_cannot_be_used_are_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "q.jsonl").write_text(line)
    with pytest.raises(SetupError, match=r"q\.jsonl"):
        questions.read_questions(tmp_path / "q.jsonl")
