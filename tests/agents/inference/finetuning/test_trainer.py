"""The trainer on real bases: Qwen3.6's architecture with all 17 kinds of modules, and the small model."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from mlx_lm.tuner.utils import load_adapters

from agents.inference.finetuning.messages import (
    IterationBegan,
    TrainingDone,
    TrainingJob,
    TrainingNote,
    TrainLoss,
    ValidationLoss,
)
from agents.inference.finetuning.trainer import Follower, Refusal, run_job
from tests.agents.inference.bases import write_base
from tests.agents.inference.hybrid import KINDS

RECIPE: dict[str, Any] = {
    "seed": 3,
    "iters": 4,
    "batch_size": 1,
    "learning_rate": 1e-3,
    "lr_schedule": None,
    "optimizer": "adam",
    "optimizer_config": {},
    "num_layers": 4,
    "lora_parameters": {"rank": 2, "scale": 1.0, "dropout": 0.0, "keys": list(KINDS)},
    "grad_accumulation_steps": 1,
    "grad_checkpoint": False,
    "clear_cache_threshold": 0,
    "max_seq_length": 64,
    "mask_prompt": True,
    "val_batches": 1,
    "steps_per_report": 2,
    "steps_per_eval": 4,
    "save_every": 2,
    "test": False,
    "test_batches": 1,
}
Run = Callable[..., list[Any]]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    return write_base(tmp_path_factory.mktemp("bases") / "float", small_model)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_set(tmp_path / "data", [f"What is {number} + 1?" for number in range(6)])
    return tmp_path / "data"


def write_set(folder: Path, prompts: list[str], answer: str = "It is one more.") -> None:
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"prompt": prompt, "completion": answer}) + "\n" for prompt in prompts]
    for name in ("train", "valid", "test"):
        (folder / f"{name}.jsonl").write_text("".join(lines))


@pytest.fixture
def run(base: Path, data: Path, tmp_path: Path) -> Run:
    """Run a job with changes to the recipe; the messages."""

    def run_with(
        *, model: Path = base, name: str = "out", begins: int = 0, checkpoint: str = "",
        limit: int | None = None, messages: list[Any] | None = None, **changes: Any,
    ) -> list[Any]:  # fmt: skip
        messages = [] if messages is None else messages
        job = TrainingJob(
            model=str(model),
            data=str(data),
            folder=str(tmp_path / name),
            recipe=RECIPE | changes,
            begins=begins,
            checkpoint=checkpoint,
            memory_limit=limit,
        )
        run_job(job, messages.append)
        return messages

    return run_with


def of_kind(messages: list[Any], kind: type[Any]) -> list[Any]:
    return [message for message in messages if isinstance(message, kind)]


def read_weights(file: str) -> dict[str, mx.array]:
    weights: Any = mx.load(file)
    return dict(weights)


def test_all_17_kinds_are_trained_and_change_the_model(run: Run, base: Path, data: Path, tmp_path: Path) -> None:
    messages = run(test=True)
    assert [message.iteration for message in of_kind(messages, IterationBegan)] == [1, 2, 3, 4]
    losses = of_kind(messages, TrainLoss)
    assert [loss.iteration for loss in losses] == [2, 4]
    assert losses[1].loss < losses[0].loss
    validation = of_kind(messages, ValidationLoss)
    assert [(loss.iteration, loss.test) for loss in validation] == [(0, False), (3, False), (4, True)]
    assert validation[-1].loss < validation[0].loss
    (done,) = of_kind(messages, TrainingDone)
    weights = read_weights(done.file)
    modules = {name.rpartition(".")[0] for name in weights}
    assert done.modules == len(modules)
    assert done.parameters == sum(array.size for array in weights.values())
    assert {kind for kind in KINDS if any(module.endswith(f".{kind}") for module in modules)} == set(KINDS)
    # Through mlx-lm's own way of serving it.
    folder = tmp_path / "served"
    folder.mkdir()
    shutil.copyfile(done.file, folder / "adapters.safetensors")
    config = {"fine_tune_type": "lora", "num_layers": 4, "lora_parameters": RECIPE["lora_parameters"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    model, _ = mlx_lm.load(str(base))
    before = np.array(model(mx.array([[5, 6, 7]])))
    after = np.array(load_adapters(model, str(folder))(mx.array([[5, 6, 7]])))
    assert float(np.abs(after - before).max()) > 1e-3


def test_equal_seeds_give_equal_weights(run: Run) -> None:
    files = [
        Path(of_kind(run(name=name, seed=seed, iters=2), TrainingDone)[0].file).read_bytes()
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    assert files[0] == files[1] != files[2]


def test_a_resumed_training_goes_on_from_its_weights_and_keeps_two_checkpoints(run: Run, tmp_path: Path) -> None:
    whole = run(iters=6, steps_per_report=1, save_every=1)
    checkpoints = sorted(path.name for path in (tmp_path / "out").glob("*_adapters.safetensors"))
    assert checkpoints[-1] == "0000006_adapters.safetensors"
    assert len(checkpoints) == 3  # the last one was written after the last look
    part = run(
        name="later", begins=5, checkpoint=str(tmp_path / "out" / "0000005_adapters.safetensors"), iters=6,
        steps_per_report=1, save_every=1,
    )  # fmt: skip
    assert [message.iteration for message in of_kind(part, IterationBegan)] == [6]
    (resumed,) = of_kind(part, TrainLoss)
    assert resumed.iteration == 6
    assert resumed.loss == pytest.approx(of_kind(whole, TrainLoss)[-1].loss, rel=1e-4)  # same weights, same batch


def test_a_training_that_was_killed_after_its_last_checkpoint_only_writes_it_down(run: Run, tmp_path: Path) -> None:
    run()
    last = tmp_path / "out" / "0000004_adapters.safetensors"
    messages = run(name="later", begins=4, checkpoint=str(last))
    assert not of_kind(messages, IterationBegan)
    assert read_weights(of_kind(messages, TrainingDone)[0].file).keys() == read_weights(str(last)).keys()


def test_the_batches_go_on_where_they_stopped(tmp_path: Path) -> None:
    examples = [(list(range(length)), 0) for length in range(3, 11)]

    def take(begins: int, count: int) -> list[int]:
        np.random.seed(1)
        batches = Follower(tmp_path, begins=begins, notify=lambda _: None).iterate(examples, 1, 32, loop=True)
        return [int(lengths[0][1].item()) for _, lengths in itertools.islice(batches, count)]

    whole = take(0, 20)
    assert sorted(whole[:8]) == list(range(3, 11))
    assert take(5, 15) == whole[5:]


def test_too_little_memory_is_refused_before_the_first_step_with_both_numbers(run: Run) -> None:
    messages: list[Any] = []
    with pytest.raises(Refusal, match=r"needs about 0\.\d GB .*this machine has 0\.0 GB") as refusal:
        run(limit=20_000_000, messages=messages)
    assert refusal.value.message.param == "memory"
    (need,) = messages
    assert need.peak > need.available == 20_000_000


def test_more_than_this_machine_has_is_refused(run: Run, data: Path) -> None:
    """No limit is set: the attention's scores alone would need more than any test machine has."""
    write_set(data, ["Say it."], answer="word " * 300_000)
    with pytest.raises(Refusal, match=r"training needs about \d{4,}\.\d GB .*activations \d+\.\d\)") as refusal:
        run(max_seq_length=300_000)
    assert refusal.value.message.param == "memory"


def test_a_quantised_base_is_refused(run: Run, tmp_path: Path, small_model: Path) -> None:
    with pytest.raises(Refusal, match="is quantised: training needs the float weights"):
        run(model=write_base(tmp_path / "quantised", small_model, quantized=True))


def test_a_base_that_cannot_be_loaded_is_named_in_one_line(run: Run, base: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "config.json"):
        broken = tmp_path / name.partition(".")[0]
        shutil.copytree(base, broken)
        (broken / name).write_text('{"model_type": "unheard-of"}')
        with pytest.raises(Refusal, match="cannot be loaded") as refusal:
            run(model=broken)
        assert "\n" not in refusal.value.message.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 5}, "num_layers is 5, and the base has 4 layers"),
        ({"lora_parameters": RECIPE["lora_parameters"] | {"keys": ["mlp.up"]}}, "names mlp.up, which no trained layer"),
        ({"lora_parameters": RECIPE["lora_parameters"] | {"keys": ["mlp"]}}, "Can't convert layer of type"),
        ({"lr_schedule": {"name": "zigzag", "arguments": [1]}}, "lr_schedule is none of mlx-lm's"),
        ({"optimizer_config": {"adam": {"speed": 1}}}, "optimizer_config.adam"),
    ],
)
def test_a_recipe_that_does_not_fit_the_base_is_refused(run: Run, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Refusal, match=message) as refusal:
        run(**changes)
    assert refusal.value.message.param == "recipe"


def test_a_schedule_goes_on_where_it_stopped(run: Run) -> None:
    schedule = {"name": "linear_schedule", "arguments": [1e-3, 0.0, 4]}
    rates = [loss.learning_rate for loss in of_kind(run(lr_schedule=schedule, steps_per_report=1), TrainLoss)]
    checkpointless = run(name="later", lr_schedule=schedule, steps_per_report=1, begins=2)
    assert [loss.learning_rate for loss in of_kind(checkpointless, TrainLoss)] == rates[2:]


def test_a_loss_that_is_no_number_ends_the_training(run: Run) -> None:
    messages: list[Any] = []
    with pytest.raises(
        Refusal, match=r"the loss is (nan|inf) at iteration [23]: take a smaller learning_rate"
    ) as refusal:
        run(learning_rate=1e30, iters=30, steps_per_report=1, messages=messages)
    assert refusal.value.message.param == "loss"
    assert len(of_kind(messages, IterationBegan)) <= 3


def test_a_weight_that_is_no_number_after_the_last_step_is_refused(run: Run) -> None:
    """The loss of a step is that of the weights before it."""
    with pytest.raises(Refusal, match="holds a number that is not finite: take a smaller learning_rate") as refusal:
        run(learning_rate=float("inf"), iters=1, steps_per_report=1)
    assert refusal.value.message.param == "loss"


def test_a_result_that_changes_nothing_is_refused(run: Run) -> None:
    with pytest.raises(Refusal, match=r"lora_b is all zeros"):
        run(begins=4)  # no step is left, and no checkpoint was given


def test_examples_that_are_cut_are_named_by_line(run: Run, data: Path) -> None:
    write_set(data, ["Hi?", "Hi?"])
    long = json.dumps({"prompt": "Hi?", "completion": "word " * 100})
    with (data / "train.jsonl").open("a") as file:
        file.write(f"\n{long}\n")
    messages = run(iters=2)
    (note,) = of_kind(messages, TrainingNote)
    assert note.text.startswith(f"{data}/train.jsonl: longer than max_seq_length 64 and cut: line 4 (")


def test_an_example_of_which_nothing_would_be_learnt_is_refused_by_line(run: Run, data: Path) -> None:
    write_set(data, ["Hi?", "word " * 100])
    with pytest.raises(Refusal, match=r"train.jsonl:2: nothing of its answer is within max_seq_length 64") as refusal:
        run()
    assert refusal.value.message.param == "data"


def test_texts_are_trained_whole(run: Run, data: Path) -> None:
    for name in ("train", "valid"):
        (data / f"{name}.jsonl").write_text('{"text": "The sea is wide and blue."}\n' * 2)
    assert of_kind(run(iters=2), TrainingDone)
