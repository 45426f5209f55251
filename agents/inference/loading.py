"""A directory to a model, its tokenizer and the encoder of its prompts; in the thread that will own them."""

import copy
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx_lm
import psutil
from mlx_lm.utils import get_total_parameters

from agents.inference.processors import Grammars
from agents.inference.prompt import PromptEncoder
from agents.inference.settings import InferenceSettings
from schemas.errors import SetupError

THINK = ("<think>", "</think>")
"""Reasoning markers of a tokenizer that declares none."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model ready to decode. ``dtype`` is what adapters are cast to; None leaves them as stored.

    ``memory``: bytes that MLX may allocate, by the settings or else by the device.
    """

    model: Any
    tokenizer: Any
    encoder: PromptEncoder
    grammars: Grammars
    device: str
    parameters: int
    dtype: Any | None
    memory: int


def load(settings: InferenceSettings) -> Loaded:
    """Load the model; on a CPU its weights become float32, the only type that the faster BLAS helps.

    Raises:
        SetupError: the directory is missing or does not hold a model that mlx-lm knows.
    """
    if not settings.model.is_dir():
        raise SetupError(f"no model directory at {settings.model}: 'kiki models pull' fetches one.", param="model")
    if settings.memory_limit is not None:
        mx.set_memory_limit(settings.memory_limit)
    if settings.cache_limit is not None:
        mx.set_cache_limit(settings.cache_limit)
    try:
        model, tokenizer, config = mlx_lm.load(str(settings.model), return_config=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise SetupError(f"{settings.model} cannot be loaded: {error}", param="model") from error
    on_cpu = mx.default_device() == mx.Device(mx.cpu)
    if on_cpu:
        model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    encoder = PromptEncoder(
        copy.deepcopy(tokenizer._tokenizer),  # encoding and decoding run in different threads
        context_tokens=settings.context_tokens or context_of(config),
        think_open=think_markers(tokenizer)[0],
    )
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        encoder=encoder,
        grammars=Grammars(copy.deepcopy(tokenizer._tokenizer), eos=list(tokenizer.eos_token_ids)),
        device="cpu" if on_cpu else "gpu",
        parameters=int(get_total_parameters(model)),
        dtype=mx.float32 if on_cpu else None,
        memory=settings.memory_limit or _device_memory(on_cpu=on_cpu),
    )


def _device_memory(*, on_cpu: bool) -> int:
    if on_cpu:
        return psutil.virtual_memory().total
    return int(mx.device_info().get("max_recommended_working_set_size") or mx.device_info()["memory_size"])


def context_of(config: dict[str, Any]) -> int:
    """Tokens of the model's context, from ``config.json``.

    Raises:
        SetupError: it does not say.
    """
    found = config.get("max_position_embeddings") or config.get("text_config", {}).get("max_position_embeddings")
    if not found:
        raise SetupError("config.json has no max_position_embeddings: set context_tokens.", param="context_tokens")
    return int(found)


def think_markers(tokenizer: Any) -> tuple[str, str]:
    """What opens and closes the reasoning."""
    return (tokenizer.think_start, tokenizer.think_end) if tokenizer.has_thinking else THINK
