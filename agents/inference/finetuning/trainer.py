"""Trains an adapter with mlx-lm's own trainer, in a process of its own (:mod:`agents.inference.finetuning.child`).

What is added to ``mlx_lm.tuner.trainer.train`` is around it: the checks before the first step, the report of its
progress, the end at a loss that is no number, and the check of the result. A resumed training goes on with the
batches where the earlier one stopped; its optimiser begins anew, because mlx-lm saves none.
"""

import itertools
import json
import math
import time
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import mlx_lm
import numpy as np
import psutil
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.datasets import CacheDataset, create_dataset
from mlx_lm.tuner.trainer import TrainingArgs, evaluate, iterate_batches, train
from mlx_lm.tuner.utils import build_schedule, linear_to_lora_layers

from agents.inference.finetuning.estimate import estimate_memory
from agents.inference.finetuning.examples import read_example_file
from agents.inference.finetuning.messages import (
    IterationBegan,
    TrainingDone,
    TrainingJob,
    TrainingMessage,
    TrainingNote,
    TrainingRefused,
    TrainLoss,
    ValidationLoss,
)
from agents.inference.mlx.device import read_device, set_limits

Notify = Callable[[TrainingMessage], None]

OPTIMIZERS = {
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "muon": optim.Muon,
    "sgd": optim.SGD,
    "adafactor": optim.Adafactor,
}
SAME_NAMES = (
    "batch_size",
    "val_batches",
    "steps_per_report",
    "steps_per_eval",
    "max_seq_length",
    "grad_checkpoint",
    "grad_accumulation_steps",
    "clear_cache_threshold",
)
"""Fields of a recipe that mlx-lm's trainer takes under the same name."""

NAMED_LINES = 5
"""Lines of a file that are named of those with the same fault."""

KEPT_CHECKPOINTS = 2
"""Of one attempt: the newest may be half written when the process is killed."""


class Refusal(Exception):
    """The training ends; ``message`` says why."""

    def __init__(self, text: str, *, param: str, resumable: bool = False) -> None:
        super().__init__(text)
        self.message = TrainingRefused(text=text, param=param, resumable=resumable)


def run_job(job: TrainingJob, notify: Notify) -> None:
    """Train as the job says; ``notify`` gets every message, the last of which is the result.

    Raises:
        Refusal: the training cannot begin, or cannot go on.
    """
    if job.losses:
        notify = _keep_losses(Path(job.losses), notify)
    on_cpu = mx.default_device() == mx.Device(mx.cpu)
    if not on_cpu:
        _run_on_device(job, notify, on_cpu=False)
        return
    mx.disable_compile()  # a CPU's fused kernels are built by a C++ compiler: half a minute before the first step
    try:
        _run_on_device(job, notify, on_cpu=True)
    finally:
        mx.enable_compile()


def _keep_losses(file: Path, notify: Notify) -> Notify:
    """Write each loss down before it is told, and so before the checkpoint that it leads to: whoever started this
    process may be dead by then, and the next one goes on from that checkpoint."""

    def keep(message: TrainingMessage) -> None:
        if isinstance(message, TrainLoss | ValidationLoss):
            is_test = isinstance(message, ValidationLoss) and message.test
            name = "train" if isinstance(message, TrainLoss) else "test" if is_test else "valid"
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"set": name, "iteration": message.iteration, "loss": message.loss}) + "\n")
        notify(message)

    return keep


def _run_on_device(job: TrainingJob, notify: Notify, *, on_cpu: bool) -> None:
    recipe = job.recipe
    memory = set_limits(read_device(), job.memory_limit, job.cache_limit)
    if on_cpu:
        memory = min(memory, int(psutil.virtual_memory().available))
    np.random.seed(recipe["seed"])
    mx.random.seed(recipe["seed"])
    model, tokenizer, config = _load_base(job)
    if on_cpu:
        model.set_dtype(mx.float32)  # the only floating type that the faster BLAS helps
    _add_lora(model, recipe)
    sets, longest = _load_sets(job, tokenizer, notify)
    need = estimate_memory(model, config, recipe, tokens=longest, available=memory)
    notify(need)
    if need.peak > memory:
        raise Refusal(
            f"training needs about {need.peak / 1e9:.1f} GB (weights {need.weights / 1e9:.1f}, adapter "
            f"{need.adapter / 1e9:.1f}, optimiser {need.optimizer / 1e9:.1f}, activations "
            f"{need.activations / 1e9:.1f}), and this machine has {memory / 1e9:.1f} GB for it: set grad_checkpoint, "
            "a smaller batch_size or max_seq_length in the recipe, or take a smaller base",
            param="memory",
        )
    if job.checkpoint:
        model.load_weights(job.checkpoint, strict=False)
    mx.eval(model.parameters())
    mx.clear_cache()
    _train(model, job, sets, notify)


def _load_base(job: TrainingJob) -> tuple[Any, Any, Mapping[str, Any]]:
    try:
        model, tokenizer, config = mlx_lm.load(job.model, return_config=True, lazy=True)
    except Exception as error:  # tokenizers raise that class itself
        text = " ".join(str(error).split())
        raise Refusal(f"the base {job.model} cannot be loaded: {text}", param="model") from error
    quantized = (nn.QuantizedLinear, nn.QuantizedEmbedding, QuantizedSwitchLinear)
    if any(isinstance(module, quantized) for _, module in model.named_modules()):
        raise Refusal(f"the base {job.model} is quantised: training needs the float weights", param="model")
    model.freeze()
    return model, tokenizer, config


def _add_lora(model: Any, recipe: Mapping[str, Any]) -> None:
    """Put the LoRA layers into the model; each key must name a module in one of the layers."""
    count, layers = int(recipe["num_layers"]), model.layers
    if count > len(layers):
        raise Refusal(f"num_layers is {count}, and the base has {len(layers)} layers", param="recipe")
    # mlx-lm's own slice takes all layers for -1.
    trained = layers[-max(count, 0) :]
    parameters = dict(recipe["lora_parameters"])
    if parameters["keys"] is None:
        del parameters["keys"]
    else:
        names = {name for layer in trained for name, _ in layer.named_modules()}
        if odd := [key for key in parameters["keys"] if key not in names]:
            raise Refusal(
                f"lora_parameters.keys names {', '.join(odd)}, which no trained layer of the base has", param="recipe"
            )
    try:
        linear_to_lora_layers(model, count, parameters)
    except ValueError as error:
        raise Refusal(f"lora_parameters.keys: {error}", param="recipe") from error


def _load_sets(job: TrainingJob, tokenizer: Any, notify: Notify) -> tuple[dict[str, Any], int]:
    """The data sets by name, and the tokens of the longest example."""
    recipe = job.recipe
    sets: dict[str, Any] = {}
    longest = 0
    for name in ("train", "valid", *(("test",) if recipe["test"] else ())):
        file = read_example_file(Path(job.data) / f"{name}.jsonl")
        if name != "train" and not file.path.exists():
            continue
        if file.faults:
            raise Refusal("\n".join(file.faults), param="data")
        options = types.SimpleNamespace(mask_prompt=recipe["mask_prompt"] and file.form != "text")
        data = CacheDataset(create_dataset(list(file.examples.values()), tokenizer, options))
        longest = max(longest, _check_lengths(data, file.path, list(file.examples), recipe, notify))
        sets[name] = data
    return sets, longest


def _check_lengths(
    data: CacheDataset, path: Path, numbers: list[int], recipe: Mapping[str, Any], notify: Notify
) -> int:
    """Tokens of the longest example. Examples that are cut are named; one of which nothing remains to be learnt is
    refused, because its loss would be 0 / 0."""
    limit = int(recipe["max_seq_length"])
    cut, lost = [], []
    longest = 0
    for place, number in enumerate(numbers):
        try:
            tokens, offset = data[place]
        except Exception as error:  # a template may raise anything
            raise Refusal(f"{path}:{number}: the base's chat template refuses it ({error})", param="data") from error
        longest = max(longest, len(tokens))
        if len(tokens) > limit:
            cut.append(f"{number} ({len(tokens):,})")
        if offset >= min(len(tokens), limit - 1):
            lost.append(
                f"{path}:{number}: nothing of its answer is within max_seq_length {limit}: the prompt alone has "
                f"{offset:,} of {len(tokens):,} tokens"
            )
    if lost:
        raise Refusal("\n".join(lost), param="data")
    if cut:
        more = f" and {len(cut) - NAMED_LINES} more" if len(cut) > NAMED_LINES else ""
        text = f"{path}: longer than max_seq_length {limit} and cut: line {', '.join(cut[:NAMED_LINES])} tokens{more}"
        notify(TrainingNote(text=text))
    return min(longest, limit)


def _train(model: Any, job: TrainingJob, sets: Mapping[str, Any], notify: Notify) -> None:
    recipe = job.recipe
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / "adapters.safetensors"
    follower = Follower(folder, begins=job.begins, notify=notify)
    arguments = TrainingArgs(
        iters=recipe["iters"] - job.begins,
        steps_per_save=recipe["save_every"],
        adapter_file=str(result),
        **{name: recipe[name] for name in SAME_NAMES},
    )
    mx.reset_peak_memory()
    started = time.perf_counter()
    try:
        if arguments.iters:
            train(
                model=model,
                optimizer=_make_optimizer(recipe, job.begins),
                train_dataset=sets["train"],
                val_dataset=sets.get("valid"),
                args=arguments,
                iterate_batches=follower.iterate,
                training_callback=follower,
            )
        else:  # killed between the last checkpoint and the end
            mx.save_safetensors(str(result), dict(tree_flatten(model.trainable_parameters())))
        if "test" in sets:
            loss = evaluate(model, sets["test"], recipe["batch_size"], recipe["test_batches"], recipe["max_seq_length"])
            notify(ValidationLoss(iteration=recipe["iters"], loss=loss, test=True))
    except (OSError, RuntimeError) as error:
        raise _explain(error) from error
    notify(
        TrainingDone(
            file=str(result),
            seconds=time.perf_counter() - started,
            peak_memory=int(mx.get_peak_memory()),
            **_check_result(model),
        )
    )


def _explain(error: Exception) -> Refusal:
    """What mlx's error means to a person."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) or "[write]" in text or "[open]" in text:
        return Refusal(
            f"the checkpoint could not be written ({text}): the disk is full, or takes no files; free some space and "
            "run the same command again: it goes on from the last checkpoint",
            param="disk",
            resumable=True,
        )
    return Refusal(f"the training failed: {text}", param="model", resumable=True)


def _make_optimizer(recipe: Mapping[str, Any], begins: int) -> Any:
    name, rate = recipe["optimizer"], recipe["learning_rate"]
    if recipe["lr_schedule"] is not None:
        updates = begins // recipe["grad_accumulation_steps"]
        try:
            schedule = build_schedule(recipe["lr_schedule"])
        except (AttributeError, KeyError, TypeError, IndexError) as error:
            raise Refusal(f"lr_schedule is none of mlx-lm's: {error}", param="recipe") from error
        rate = lambda step: schedule(step + updates)  # noqa: E731
    try:
        return OPTIMIZERS[name](learning_rate=rate, **recipe["optimizer_config"].get(name, {}))
    except TypeError as error:
        raise Refusal(f"optimizer_config.{name}: {error}", param="recipe") from error


def _check_result(model: Any) -> dict[str, int]:
    """Numbers of modules and parameters.

    Raises:
        Refusal: a weight is not finite, or a module has learnt nothing.
    """
    weights = dict(tree_flatten(model.trainable_parameters()))
    for name, array in weights.items():
        if not bool(mx.all(mx.isfinite(array)).item()):
            raise Refusal(f"{name} holds a number that is not finite: take a smaller learning_rate", param="loss")
        if name.endswith("lora_b") and not bool(mx.any(array != 0).item()):
            raise Refusal(
                f"{name} is all zeros, so the adapter changes nothing there: take more iterations or a larger "
                "learning_rate",
                param="loss",
            )
    return {"modules": len(weights) // 2, "parameters": sum(int(array.size) for array in weights.values())}


class Follower(TrainingCallback):  # type: ignore[misc]  # mlx-lm has no types
    """Follows mlx-lm's trainer: reports, stops at a loss that is no number, removes checkpoints that are superseded."""

    def __init__(self, folder: Path, *, begins: int, notify: Notify) -> None:
        self._folder, self._begins, self._notify = folder, begins, notify

    def iterate(self, dataset: Any, *args: Any, loop: bool = False, **options: Any) -> Iterator[Any]:
        """The batches of mlx-lm; those of the training go on where an earlier process stopped."""
        batches = iterate_batches(dataset, *args, loop=loop, **options)
        if not loop:
            yield from batches
            return
        for iteration, batch in enumerate(itertools.islice(batches, self._begins, None), self._begins + 1):
            self._notify(IterationBegan(iteration=iteration))
            yield batch

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        """See :class:`TrainingCallback`."""
        iteration = self._begins + train_info["iteration"]
        self._refuse_infinite(train_info["train_loss"], iteration)
        self._notify(
            TrainLoss(
                iteration=iteration,
                loss=train_info["train_loss"],
                learning_rate=train_info["learning_rate"],
                tokens_per_second=train_info["tokens_per_second"],
                trained_tokens=train_info["trained_tokens"],
                peak_memory=int(train_info["peak_memory"] * 1e9),
            )
        )
        for path in sorted(self._folder.glob("*_adapters.safetensors"))[:-KEPT_CHECKPOINTS]:
            path.unlink(missing_ok=True)

    def on_val_loss_report(self, val_info: dict[str, Any]) -> None:
        """See :class:`TrainingCallback`."""
        iteration = self._begins + val_info["iteration"]
        self._refuse_infinite(val_info["val_loss"], iteration)
        self._notify(ValidationLoss(iteration=iteration, loss=val_info["val_loss"]))

    def _refuse_infinite(self, loss: float, iteration: int) -> None:
        if not math.isfinite(loss):
            raise Refusal(
                f"the loss is {loss} at iteration {iteration}: take a smaller learning_rate, or mend the data",
                param="loss",
            )
