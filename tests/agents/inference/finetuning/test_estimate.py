"""The estimate of memory against the peak that is measured, and on paper for the base of the 35 experts."""

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import qwen3_5_moe
from mlx_lm.tuner.utils import linear_to_lora_layers

from agents.inference.finetuning.estimate import estimate_memory
from agents.inference.finetuning.messages import MemoryNeed, TrainingDone, TrainingJob
from agents.inference.finetuning.trainer import run_job
from tests.agents.inference.bases import write_base
from tests.agents.inference.finetuning.test_trainer import RECIPE

ALL_LINEAR = {"rank": 16, "scale": 1.0, "dropout": 0.0, "keys": None}
QWEN36: dict[str, Any] = {
    "model_type": "qwen3_5_moe",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 40,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "vocab_size": 248320,
    "linear_num_value_heads": 32,
    "linear_num_key_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "tie_word_embeddings": False,
}
"""The text model of Qwen3.6-35B-A3B."""

Measure = Callable[..., tuple[MemoryNeed, TrainingDone]]


@pytest.fixture
def measure(tmp_path: Path) -> Measure:
    """Train two iterations on answers of so many words; the estimate and the result, without what other tests hold."""

    def measure_with(model: Path, words: int, **changes: Any) -> tuple[MemoryNeed, TrainingDone]:
        line = json.dumps({"prompt": "Say it.", "completion": "word " * words}) + "\n"
        (tmp_path / "train.jsonl").write_text(line * 2)
        recipe = RECIPE | {"lora_parameters": ALL_LINEAR, "num_layers": -1, "iters": 2, "max_seq_length": 512} | changes
        messages: list[Any] = []
        gc.collect()
        held = int(mx.get_active_memory())
        run_job(
            TrainingJob(model=str(model), data=str(tmp_path), folder=str(tmp_path / "out"), recipe=recipe),
            messages.append,
        )
        (need,) = (message for message in messages if isinstance(message, MemoryNeed))
        (done,) = (message for message in messages if isinstance(message, TrainingDone))
        return need, msgspec.structs.replace(done, peak_memory=done.peak_memory - held)

    return measure_with


def test_the_estimate_is_near_the_peak_of_the_small_model(measure: Measure, small_model: Path) -> None:
    need, done = measure(small_model, 30)
    assert 0.9 <= need.peak / done.peak_memory <= 1.3, (need, done)


def test_the_estimate_counts_the_states_of_a_linear_attention(
    measure: Measure, small_model: Path, tmp_path: Path
) -> None:
    wide = write_base(
        tmp_path / "wide",
        small_model,
        linear_num_value_heads=16,
        linear_num_key_heads=8,
        linear_key_head_dim=64,
        linear_value_head_dim=64,
    )
    need, done = measure(wide, 90)
    assert done.peak_memory > 300e6  # 18 MB of weights
    assert 0.9 <= need.peak / done.peak_memory <= 1.3, (need, done)


@pytest.mark.soak
@pytest.mark.parametrize("changes", [{"num_layers": 8}, {"batch_size": 2}, {"grad_accumulation_steps": 2}])
def test_the_estimate_is_near_the_peak_for_longer_examples(
    measure: Measure, small_model: Path, changes: dict[str, Any]
) -> None:
    need, done = measure(small_model, 150, **changes)
    assert 0.9 <= need.peak / done.peak_memory <= 1.3, (need, done)


def test_on_paper_the_fleet_needs_what_the_lab_measured() -> None:
    """1.03 billion parameters, and a peak of about 107 GB. Nothing of the base is made: only shapes are read."""
    from runtime.training.recipes import find_recipe, read_recipe

    config = {"model_type": "qwen3_5_moe", "text_config": QWEN36}
    model = qwen3_5_moe.Model(qwen3_5_moe.ModelArgs.from_dict(config))
    model.set_dtype(mx.bfloat16)
    model.freeze()
    recipe = msgspec.to_builtins(read_recipe(find_recipe("sql")))
    linear_to_lora_layers(model, recipe["num_layers"], dict(recipe["lora_parameters"]))
    parameters = sum(array.size for _, array in tree_flatten(model.trainable_parameters()))
    need = estimate_memory(model, config, recipe, tokens=recipe["max_seq_length"], available=0)
    assert round(parameters / 1e9, 2) == 1.03
    assert 95e9 < need.peak < 115e9, need
