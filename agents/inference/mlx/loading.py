"""Loads a model directory: the model, its tokenizer and its prompt encoder. Call it on the thread that owns them."""

import copy
import gc
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx_lm
import structlog
from mlx_lm.utils import get_total_parameters

from agents.inference.device_memory import Device
from agents.inference.int8.conversion import convert
from agents.inference.int8.selection import select_weights
from agents.inference.mlx import swiglu
from agents.inference.mlx.device import read_device, set_limits
from agents.inference.mlx.processors import Grammars
from agents.inference.model_config import find_narrow, require_context
from agents.inference.prompt import PromptEncoder
from agents.inference.settings import InferenceSettings
from agents.inference.tools import ToolSyntax, syntax_of
from agents.inference.vocabulary import Vocabulary
from schemas.errors import SetupError

_log = structlog.get_logger("inference")

THINK = ("<think>", "</think>")
"""Reasoning markers of a tokenizer that declares none."""


@dataclass(frozen=True, kw_only=True)
class ModelBundle:
    """A model ready to decode.

    ``weights`` says how they are held: "int8" or "float32" on a CPU, "stored" elsewhere; they are ``model_bytes`` long.
    ``memory``: bytes that the worker may fill, by the settings or else by the device.
    """

    model: Any
    tokenizer: Any
    encoder: PromptEncoder
    grammars: Grammars
    vocabulary: Vocabulary
    syntax: ToolSyntax
    device: Device
    weights: str
    parameters: int
    model_bytes: int
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
    device = read_device()
    on_cpu = device.kind == "cpu"
    gc.collect()  # an earlier model of this process, if it went while this one is loaded, would be taken from its bytes
    memory, bytes_before = set_limits(device, settings.memory_limit, settings.cache_limit), int(mx.get_active_memory())
    try:
        model, tokenizer, config = mlx_lm.load(str(settings.model), return_config=True, lazy=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise SetupError(f"{settings.model} cannot be loaded: {error}", param="model") from error
    if (reason := find_narrow(config)) is not None:
        _log.warning("model is narrow", model=settings.model_name, error=reason)
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
        context_tokens=settings.context_tokens or require_context(config),
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
        device=device.kind,
        weights=weights,
        parameters=parameters,
        model_bytes=model_bytes,
        memory=memory,
    )


def vocabulary_of(config: dict[str, Any]) -> int:
    """Token ids of the model, from ``config.json``; 0 when it does not say."""
    return int(config.get("vocab_size") or config.get("text_config", {}).get("vocab_size") or 0)


def think_markers(tokenizer: Any) -> tuple[str, str]:
    """What opens and closes the reasoning."""
    return (tokenizer.think_start, tokenizer.think_end) if tokenizer.has_thinking else THINK
