"""What an adapter wins against the base, alone and with another beside it: on a real, tiny model."""

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from agents.inference.settings import InferenceSettings
from agents.shared.adapters.rules import UnfitAdapter
from agents.shared.retained import load_retained_set
from tests.adapters import write_adapter, write_tiny_model, write_variation

if TYPE_CHECKING:
    from agents.inference.probing.forgetting import ForgettingProbe

QUESTIONS = load_retained_set(None).questions[:12]


@pytest.fixture(scope="module")
def tiny_model(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(small_model, tmp_path_factory.mktemp("tiny") / "model")


def load_probe(model: Path) -> "ForgettingProbe":
    from agents.inference.probing.forgetting import ForgettingProbe

    return ForgettingProbe(InferenceSettings(model=model, model_name="tiny", cpu_weights="float32"), QUESTIONS)


@pytest.fixture(scope="module")
def probe(tiny_model: Path) -> "ForgettingProbe":
    return load_probe(tiny_model)


@pytest.fixture(scope="module")
def prior(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tiny_model, tmp_path_factory.mktemp("priors"), "prior", size=0.2)


def score_one_by_one(model: Path) -> list[float]:
    """The right choice's log-probability among the choices, each choice in a pass of its own."""
    import mlx.core as mx
    import mlx_lm

    network, tokenizer = mlx_lm.load(str(model))
    network.set_dtype(mx.float32)
    right_scores = []
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question.question}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        totals = []
        for choice in question.choices:
            tokens = tokenizer.encode(choice, add_special_tokens=False)
            logits: Any = np.array(network(mx.array([[*prompt, *tokens]]))[0].astype(mx.float32), np.float64)
            logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            totals.append(sum(logprobs[len(prompt) + at - 1, token] for at, token in enumerate(tokens)))
        right_scores.append(totals[question.answer] - math.log(sum(map(math.exp, totals))))
    return right_scores


def test_the_base_is_scored_as_choice_by_choice(probe: "ForgettingProbe", tiny_model: Path) -> None:
    assert probe.judge().logprobs == pytest.approx(score_one_by_one(tiny_model), abs=1e-3)
    assert probe.win_rate() == 0.5


def test_two_adapters_change_the_model_as_their_sum_in_its_weights(
    probe: "ForgettingProbe", tiny_model: Path, prior: Path, tmp_path: Path
) -> None:
    other = write_adapter(tiny_model, tmp_path, "other", seed=5, rank=2, size=0.2)
    merged = write_tiny_model(tiny_model, tmp_path / "merged")
    weights = load_file(merged / "model.safetensors")
    for tensors in (load_file(folder / "adapters.safetensors") for folder in (prior, other)):
        for path in {key.rpartition(".")[0] for key in tensors}:
            weights[f"{path}.weight"] += (tensors[f"{path}.lora_a"] @ tensors[f"{path}.lora_b"]).T
    save_file(weights, merged / "model.safetensors")
    assert probe.judge(prior, other).logprobs == pytest.approx(score_one_by_one(merged), abs=1e-3)


def test_undoing_a_prior_lowers_its_win_rate(probe: "ForgettingProbe", prior: Path, tmp_path: Path) -> None:
    undoing = write_variation(prior, tmp_path, "undoing", factor=-2.0)
    mirrored = write_variation(prior, tmp_path, "mirrored", factor=-1.0)
    drop = probe.measure_drop(prior, undoing)
    assert probe.judge(prior, undoing).logprobs == pytest.approx(probe.judge(mirrored).logprobs, abs=1e-3)
    assert drop == probe.win_rate(prior) - probe.win_rate(prior, undoing)
    assert drop != 0.0


def test_an_adapter_changes_logits_and_leaves_the_base_as_it_was(
    probe: "ForgettingProbe", prior: Path, tiny_model: Path, tmp_path: Path
) -> None:
    assert probe.logits_change(prior) > 0.01
    dead = {f"model.layers.{layer}.self_attn.{leaf}_proj.lora_b": np.zeros((4, width), np.float32)
            for layer in range(2) for leaf, width in (("q", 64), ("v", 32))}  # fmt: skip
    assert probe.logits_change(write_adapter(tiny_model, tmp_path, "dead", tensors=dead)) == 0.0
    endless = write_variation(prior, tmp_path, "endless", factor=float("inf"))
    assert math.isnan(probe.logits_change(endless))
    assert load_probe(tiny_model).judge().logprobs == probe.judge().logprobs


def test_an_adapter_of_another_base_is_refused(probe: "ForgettingProbe", tiny_model: Path, tmp_path: Path) -> None:
    elsewhere = {f"model.layers.9.self_attn.q_proj.lora_{side}": np.ones((4, 4), np.float32) for side in "ab"}
    with pytest.raises(UnfitAdapter, match=r"layers\.9\.self_attn\.q_proj is not a module of this model"):
        probe.win_rate(write_adapter(tiny_model, tmp_path, "elsewhere", tensors=elsewhere))
    wide = {"model.layers.0.self_attn.q_proj.lora_a": np.ones((65, 4), np.float32)}
    with pytest.raises(UnfitAdapter, match="do not fit the model"):
        probe.win_rate(write_adapter(tiny_model, tmp_path, "wide", tensors=wide))
    assert probe.win_rate() == 0.5


@pytest.mark.parametrize("quantized", [False, True])
def test_every_kind_of_a_hybrid_model_is_mounted(quantized: bool, small_model: Path, tmp_path: Path) -> None:
    """Experts, gates and linear attention of Qwen3.6's architecture: the logits are those of the worker's bank."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from agents.inference.adapters.bank import AdapterBank
    from agents.inference.probing.forgetting import PROBE, ForgettingProbe
    from schemas.findings import AdapterUse
    from tests.agents.inference import hybrid

    model = hybrid.build(quantized=quantized)
    hybrid.write(tmp_path / "adapters", model, "one", kinds=hybrid.KINDS, seed=1, rank=4, size=0.1)
    folder = tmp_path / "model"
    folder.mkdir()
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(small_model / name, folder)
    own = {path: {"group_size": 64, "bits": each.bits} for path, each in model.named_modules() if hasattr(each, "bits")}
    text = hybrid.CONFIG | {"tie_word_embeddings": False, "max_position_embeddings": 4096}
    config = {"model_type": "qwen3_5_moe", "text_config": text}
    config |= {"quantization": {"group_size": 64, "bits": 4} | own} if quantized else {}
    (folder / "config.json").write_text(json.dumps(config))
    bank = AdapterBank(model, tmp_path / "adapters", budget=2**30)
    base = np.array(model(mx.array([PROBE]))[0])
    bank.activate((AdapterUse(name="one"),))
    expected = np.abs(np.array(model(mx.array([PROBE]))[0]) - base).max()
    probe = ForgettingProbe(InferenceSettings(model=folder, model_name="hybrid", cpu_weights="float32"), ())
    assert expected > 0.01
    assert probe.logits_change(tmp_path / "adapters" / "one") == pytest.approx(expected, rel=0.02)
