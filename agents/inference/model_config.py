"""What a model's ``config.json`` says of its context and its quantisation, and which is too narrow. Pure."""

from collections.abc import Mapping
from typing import Any

from schemas.errors import SetupError

QWEN36 = ("qwen3_5_moe", "qwen3_5", "qwen3_5_moe_text", "qwen3_5_text")
"""What ``config.json`` calls Qwen3.6's architecture."""
LEAST_BITS = 4


def find_narrow(config: Mapping[str, Any]) -> str | None:
    """Why the model's weights are too narrow, with the mend; None when they are not.

    Below four bits the experts of Qwen3.6 lose what the adapters were trained on.
    """
    quantization = config.get("quantization") or config.get("quantization_config") or {}
    bits = quantization.get("bits") if isinstance(quantization, Mapping) else None
    if config.get("model_type") not in QWEN36 or not isinstance(bits, (int, float)) or bits >= LEAST_BITS:
        return None
    return (
        f"this Qwen3.6 has {bits:g} bits a weight, and its adapters need a base of {LEAST_BITS} or more: convert it "
        f"again, 'mlx_lm.convert -q --q-bits {LEAST_BITS}'"
    )


def find_context(config: Mapping[str, Any]) -> int | None:
    """Tokens of the model's context; None when the configuration does not say."""
    text_config = config.get("text_config") or {}
    length = config.get("max_position_embeddings") or text_config.get("max_position_embeddings")
    return int(length) if length else None


def require_context(config: Mapping[str, Any]) -> int:
    """Tokens of the model's context.

    Raises:
        SetupError: the configuration does not say.
    """
    if (length := find_context(config)) is None:
        raise SetupError("config.json has no max_position_embeddings: set context_tokens.", param="context_tokens")
    return length
