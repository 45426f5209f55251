"""Loads a model directory: the model, its tokenizer and its prompt encoder. Call it on the thread that owns them."""

import copy
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx_lm
import psutil
from mlx_lm.utils import get_total_parameters

from agents.inference.int8.conversion import convert
from agents.inference.int8.selection import select_weights
from agents.inference.mlx import swiglu
from agents.inference.mlx.processors import Grammars
from agents.inference.prompt import PromptEncoder
from agents.inference.settings import InferenceSettings
from agents.inference.tools import ToolSyntax, syntax_of
from agents.inference.vocabulary import Vocabulary
from schemas.errors import SetupError

THINK = ("<think>", "</think>")
"""Reasoning markers of a tokenizer that declares none."""


@dataclass(frozen=True, kw_only=True)
class ModelBundle:
    """A model ready to decode. ``dtype`` is what adapters are cast to; None leaves them as stored.

    ``weights`` says how they are held: "int8" or "float32" on a CPU, "stored" elsewhere; they are ``model_bytes`` long.
    ``memory``: bytes that MLX may allocate, by the settings or else by the device.
    """

    model: Any
    tokenizer: Any
    encoder: PromptEncoder
    grammars: Grammars
    vocabulary: Vocabulary
    syntax: ToolSyntax
    device: str
    weights: str
    parameters: int
    model_bytes: int
    dtype: Any | None
    memory: int


def load(settings: InferenceSettings) -> ModelBundle:
    """Load the model; on a CPU its weights become int8 or float32 (:mod:`agents.inference.int8.selection`).

    Raises:
        SetupError: the directory is missing or does not hold a model that mlx-lm knows, or int8 is asked for and there
        is no kernel for it.
    """
    if settings.model is None:
        raise SetupError("engine = 'mlx' needs a model directory.", param="model")
    if not settings.model.is_dir():
        raise SetupError(f"no model directory at {settings.model}: 'kiki models pull' fetches one.", param="model")
    on_cpu = mx.default_device() == mx.Device(mx.cpu)
    memory, bytes_before = _set_limits(settings, on_cpu=on_cpu), int(mx.get_active_memory())
    try:
        model, tokenizer, config = mlx_lm.load(str(settings.model), return_config=True, lazy=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise SetupError(f"{settings.model} cannot be loaded: {error}", param="model") from error
    parameters, weights = int(get_total_parameters(model)), "stored"
    if on_cpu:
        weights = select_weights(model, settings, parameters=parameters)
        if weights == "int8":
            convert(model, settings.int8_folder and settings.int8_folder / "weights.safetensors")
        model.set_dtype(mx.float32)  # the only floating type that the faster BLAS helps
        swiglu.lighten(model)
    mx.eval(model.parameters())
    mx.clear_cache()  # frees the buffers of the weights as they were stored
    model_bytes = int(mx.get_active_memory()) - bytes_before
    syntax = syntax_of(tokenizer)
    encoder = PromptEncoder(
        copy.deepcopy(tokenizer._tokenizer),  # encoding and decoding run in different threads
        context_tokens=settings.context_tokens or context_of(config),
        think_marks=think_markers(tokenizer),
        native_tools=syntax.native,
    )
    return ModelBundle(
        model=model,
        tokenizer=tokenizer,
        encoder=encoder,
        grammars=Grammars(copy.deepcopy(tokenizer._tokenizer), eos=list(tokenizer.eos_token_ids)),
        vocabulary=Vocabulary(tokenizer._tokenizer, size=vocabulary_of(config) or len(tokenizer._tokenizer)),
        syntax=syntax,
        device="cpu" if on_cpu else "gpu",
        weights=weights,
        parameters=parameters,
        model_bytes=model_bytes,
        dtype=mx.float32 if on_cpu else None,
        memory=memory,
    )


def limits(memory: int) -> tuple[int, int]:
    """What MLX may allocate, and keep of freed buffers, on a device with ``memory`` bytes: 460 and 32 GB of 512 GB."""
    return memory * 460 // 512, memory // 16


def _set_limits(settings: InferenceSettings, *, on_cpu: bool) -> int:
    """Set the limits of the settings, or of the device. A CPU's memory is shared with
    other processes: there only the settings count.

    Returns:
        Bytes that may be filled: the limit set, or less where Metal recommends less.
    """
    device = {} if on_cpu else mx.device_info()
    total = int(device.get("memory_size") or device.get("total_memory") or psutil.virtual_memory().total)
    memory, cache = (None, None) if on_cpu else limits(total)
    memory, cache = settings.memory_limit or memory, settings.cache_limit or cache
    if memory is not None:
        mx.set_memory_limit(memory)
    if cache is not None:
        mx.set_cache_limit(cache)
    return settings.memory_limit or int(device.get("max_recommended_working_set_size") or memory or total)


def context_of(config: dict[str, Any]) -> int:
    """Tokens of the model's context, from ``config.json``.

    Raises:
        SetupError: the configuration does not say.
    """
    length = config.get("max_position_embeddings") or config.get("text_config", {}).get("max_position_embeddings")
    if not length:
        raise SetupError("config.json has no max_position_embeddings: set context_tokens.", param="context_tokens")
    return int(length)


def vocabulary_of(config: dict[str, Any]) -> int:
    """Token ids of the model, from ``config.json``; 0 when it does not say."""
    return int(config.get("vocab_size") or config.get("text_config", {}).get("vocab_size") or 0)


def think_markers(tokenizer: Any) -> tuple[str, str]:
    """What opens and closes the reasoning."""
    return (tokenizer.think_start, tokenizer.think_end) if tokenizer.has_thinking else THINK
