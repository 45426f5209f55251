"""Estimates, before the first step, how many bytes a training takes at its peak. Nothing is computed for it.

The model may be loaded lazily: only shapes are read. Activations are what the backward pass needs of the forward
pass: the inputs and outputs of the modules, the attention's scores, the states of a linear attention, which are kept
for every token, and the logits in four copies. With gradient checkpoints a layer keeps only its input, and one
layer at a time is computed again.
"""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.switch_layers import SwitchLinear
from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear, LoRASwitchLinear

from agents.inference.finetuning.messages import MemoryNeed

OPTIMIZER_STATES = {"adam": 2, "adamw": 2, "muon": 1, "sgd": 1, "adafactor": 1}
"""Copies of the trained weights that an optimiser keeps."""

KEPT = 2
"""Copies of a module's output that are alive at once."""


def estimate_memory(
    model: Any, config: Mapping[str, Any], recipe: Mapping[str, Any], *, tokens: int, available: int
) -> MemoryNeed:
    """The need of a model whose LoRA layers are in place.

    Args:
        model: the model, with everything else frozen.
        config: its ``config.json``.
        recipe: fields of an mlx-lm recipe.
        tokens: tokens of the longest example, at most the recipe's ``max_seq_length``.
        available: bytes that may be used.
    """
    trainable = sum(int(array.nbytes) for _, array in tree_flatten(model.trainable_parameters()))
    weights = sum(int(array.nbytes) for _, array in tree_flatten(model.parameters())) - trainable
    gradients = 2 if int(recipe["grad_accumulation_steps"]) > 1 else 1
    states = OPTIMIZER_STATES[str(recipe["optimizer"])]
    return MemoryNeed(
        weights=weights,
        adapter=2 * trainable,  # an update makes the new weights before the old ones go
        optimizer=(gradients + states) * trainable,
        activations=_activations(model, config, recipe, tokens=tokens),
        available=available,
    )


def _activations(model: Any, config: Mapping[str, Any], recipe: Mapping[str, Any], *, tokens: int) -> int:
    text: Mapping[str, Any] = config.get("text_config") or config
    batch = int(recipe["batch_size"])
    rows = batch * tokens
    layers = model.layers
    size = _itemsize(model)
    hidden, vocabulary = int(text["hidden_size"]), int(text.get("vocab_size") or 0)
    scores = KEPT * int(text["num_attention_heads"]) * batch * tokens**2 * size
    count = int(recipe["num_layers"])
    adapted = layers if count < 0 else layers[-count:]
    needs = [_layer_activations(layer, text, rows, scores, size) for layer in adapted]
    inputs = rows * hidden * size
    stored = inputs * len(adapted) + max(needs) if recipe["grad_checkpoint"] else sum(needs)
    # The forward pass through a layer that is not trained keeps nothing, but is alive while it runs.
    before = max((_layer_activations(layer, text, rows, scores, size) for layer in layers), default=0)
    return int(stored + before + inputs + rows * vocabulary * (size + 12))


def _layer_activations(layer: Any, text: Mapping[str, Any], rows: int, scores: int, size: int) -> int:
    """Bytes that one layer keeps for ``rows`` tokens."""
    experts = int(text.get("num_experts_per_tok") or 1)
    names = dict(layer.named_modules())
    floats = KEPT * 2 * int(text["hidden_size"])  # the two norms, and the residual sums
    for module in names.values():
        outputs, rank, copies = _outputs(module)
        floats += (KEPT * outputs + rank) * (experts if copies else 1)
    total = rows * floats * size
    if any(name.endswith("self_attn") or name.endswith("attention") for name in names):
        total += scores
    if any(name.endswith("linear_attn") for name in names):
        heads = int(text["linear_num_value_heads"])
        state = heads * int(text["linear_key_head_dim"]) * int(text["linear_value_head_dim"])
        total += rows * state * 4 * KEPT  # float32, kept for every token
    return int(total)


def _outputs(module: Any) -> tuple[int, int, bool]:
    """Outputs of a module for a token, the rank of its change, and whether each chosen expert has them."""
    if isinstance(module, (LoRALinear, LoRASwitchLinear)):  # the base module inside it is counted by itself
        return 0, int(module.lora_a.shape[1]), isinstance(module, LoRASwitchLinear)
    if isinstance(module, SwitchLinear):
        return int(module.output_dims), 0, True
    if isinstance(module, nn.Linear):
        return int(module.weight.shape[0]), 0, False
    return 0, 0, False


def _itemsize(model: Any) -> int:
    """Bytes of a number that is computed with: that of the embedding."""
    for _, module in model.named_modules():
        weight = module.get("weight")
        if isinstance(module, (nn.Embedding, LoRAEmbedding)) and isinstance(weight, mx.array):
            return int(weight.itemsize)
    return 4
