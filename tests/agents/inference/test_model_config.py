"""Which bases are too narrow for their adapters."""

from typing import Any

import pytest

from agents.inference.model_config import find_narrow


@pytest.mark.parametrize(
    ("config", "is_narrow"),
    [
        ({"model_type": "qwen3_5_moe", "quantization": {"bits": 3}}, True),
        ({"model_type": "qwen3_5_moe", "quantization_config": {"bits": 2.5}}, True),
        ({"model_type": "qwen3_5_moe", "quantization": {"bits": 4}}, False),
        ({"model_type": "qwen3_5_moe"}, False),
        ({"model_type": "llama", "quantization": {"bits": 2}}, False),
        ({"model_type": "qwen3_5_moe", "quantization": None}, False),
    ],
)
def test_a_qwen36_below_four_bits_is_named(config: dict[str, Any], is_narrow: bool) -> None:
    reason = find_narrow(config)
    assert (reason is not None) is is_narrow
    assert reason is None or "--q-bits 4" in reason
