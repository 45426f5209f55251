"""Trains an adapter: gradient steps on its low-rank pairs, with the base frozen.

One step is one example: forward, backward, Adam. It runs between two decoding steps of the model's thread and leaves
the model as it found it, so other requests wait for one example at a time.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from safetensors.numpy import save

from agents.inference.adapters.bank import AdapterBank
from agents.inference.adapters.files import parse_pairs
from agents.inference.adapters.pairs import LowRankPair
from agents.inference.failures import adapter_error

FLOPS = 4.0
"""Floating point operations for each weight and token: the forward pass, and the backward pass through frozen
weights."""


@dataclass(frozen=True, kw_only=True)
class TrainingExample:
    """Token ids of a question and its answer; the answer begins at index ``begins``, which is at least 1."""

    tokens: tuple[int, ...]
    begins: int


def make_training_example(prompt: Sequence[int], answer: Sequence[int], *, max_tokens: int) -> TrainingExample:
    """An example of at most ``max_tokens`` tokens: the answer's end is cut first, then the prompt's beginning."""
    answer_tokens = [*answer][: max(max_tokens - len(prompt), max_tokens // 2)]
    prompt_tokens = [*prompt][-(max_tokens - len(answer_tokens)) :]
    return TrainingExample(tokens=(*prompt_tokens, *answer_tokens), begins=len(prompt_tokens))


def make_portable(data: bytes) -> bytes:
    """The same tensors, in float32 if some are bfloat16, which NumPy does not have; otherwise the same bytes."""
    tensors: Any = mx.load(io.BytesIO(data), format="safetensors")
    if all(tensor.dtype != mx.bfloat16 for tensor in tensors.values()):
        return data
    float32_data: bytes = save({name: np.array(tensor.astype(mx.float32)) for name, tensor in sorted(tensors.items())})
    return float32_data


class Training:
    """Trains from ``data``, an adapter's safetensors file in mlx-lm's layout. Runs on the model's thread.

    Raises:
        StageFailed: code ``adapter_failed``: the weights do not fit the model.
    """

    def __init__(self, bank: AdapterBank, name: str, data: bytes, *, scale: float, learning_rate: float) -> None:
        self._bank, self._name, self._scale = bank, name, scale
        pairs = parse_pairs(name, data, bank.modules, scale=scale, dtype=mx.float32)
        self._parameters = {path: {"a": pair.a, "b": pair.b} for path, pair in pairs.items()}
        self._optimizer = optim.Adam(learning_rate=learning_rate, bias_correction=True)
        self.tokens = 0

    def loss(self, example: TrainingExample) -> float:
        """Mean cross-entropy of the answer's tokens, in nats.

        Raises:
            StageFailed: code ``adapter_failed``.
        """
        with self._bank.borrow_model():
            return self._finite_loss(self._entropy(self._parameters, example))

    def step(self, example: TrainingExample) -> float:
        """Make one gradient step on an example. Returns its loss before the step.

        Raises:
            StageFailed: code ``adapter_failed``.
        """
        try:
            with self._bank.borrow_model():
                value, gradients = mx.value_and_grad(lambda parameters: self._entropy(parameters, example))(
                    self._parameters
                )
                self._parameters = self._optimizer.apply_gradients(gradients, self._parameters)
                mx.eval(value, self._parameters, self._optimizer.state)
        except (RuntimeError, ValueError) as error:
            raise adapter_error(self._name, f"the model cannot be differentiated here ({error})") from error
        self.tokens += len(example.tokens)
        return self._finite_loss(value)

    def dump(self) -> bytes:
        """The weights now, as a safetensors file in mlx-lm's layout; equal weights give equal bytes."""
        tensors = {}
        for path, pair in sorted(self._parameters.items()):
            tensors[f"{path}.lora_a"] = np.array(pair["a"])
            tensors[f"{path}.lora_b"] = np.array(pair["b"]) / np.float32(self._scale)
        data: bytes = save(tensors)
        return data

    def _entropy(self, parameters: Mapping[str, Mapping[str, mx.array]], example: TrainingExample) -> mx.array:
        self._bank.place({path: LowRankPair(a=pair["a"], b=pair["b"]) for path, pair in parameters.items()})
        logits: Any = self._bank.model(mx.array([example.tokens[:-1]]))
        answer = logits[0, example.begins - 1 :].astype(mx.float32)
        entropy: mx.array = nn.losses.cross_entropy(
            answer, mx.array(example.tokens[example.begins :]), reduction="mean"
        )
        return entropy

    def _finite_loss(self, value: mx.array) -> float:
        item: Any = value.item()
        loss = float(item)
        if not math.isfinite(loss):
            raise adapter_error(self._name, "its loss is not finite; take a smaller learning rate")
        return loss


def step_flops(bank: AdapterBank, tokens: int) -> float:
    """Estimated floating point operations of a step on so many tokens; all experts count, also unused ones."""
    return FLOPS * bank.weight_count * tokens
