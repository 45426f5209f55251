"""The worker and the offline check refuse the same files, by the same rule in the same words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.inference.adapters.bank import AdapterBank
from agents.inference.adapters.files import parse_pairs
from agents.shared.adapters.health import check_health
from agents.shared.adapters.shapes import read_base_shapes
from schemas.errors import StageFailed
from tests.adapters import write_adapter, write_tiny_model

Q = "model.layers.1.self_attn.q_proj"
SPOILT: dict[str, tuple[str, dict[str, Any]]] = {
    "nan": ("finite", {"tensors": {f"{Q}.lora_a": np.full((64, 4), np.nan, np.float32)}}),
    "inf": ("finite", {"tensors": {f"{Q}.lora_b": np.full((4, 64), np.inf, np.float32)}}),
    "dead": ("alive", {"tensors": {f"{Q}.lora_b": np.zeros((4, 64), np.float32)}}),
    "wide": ("shapes", {"tensors": {f"{Q}.lora_a": np.ones((65, 4), np.float32)}}),
    "rankless": ("shapes", {"tensors": {f"{Q}.lora_a": np.ones((64, 5), np.float32)}}),
    "elsewhere": ("shapes", {"tensors": {f"model.layers.9.gate.lora_{x}": np.ones((4, 4), np.float32) for x in "ab"}}),
    "alone": ("pairs", {"tensors": {"model.layers.0.mlp.up_proj.lora_a": np.ones((64, 4), np.float32)}}),
    "dora": ("format", {"fine_tune_type": "dora"}),
    "alpha": ("format", {"lora_parameters": {"rank": 4, "alpha": 16}}),
    "scale": ("format", {"lora_parameters": {"rank": 4, "scale": float("nan")}}),
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny_model(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(small_model, tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def check_in_worker(tiny_model: Path) -> Callable[[Path], str]:
    """The worker's refusal of the adapter in a folder; empty when it takes it."""
    import mlx_lm

    model = mlx_lm.load(str(tiny_model))[0]

    def check(folder: Path) -> str:
        bank = AdapterBank(model, folder.parent, budget=2**30)
        try:
            bank.check(folder.name)
        except StageFailed as error:
            return error.message
        return ""

    return check


@pytest.mark.parametrize("spoilt", SPOILT)
def test_both_checks_refuse_by_one_rule(
    spoilt: str, tiny_model: Path, tmp_path: Path, check_in_worker: Callable[[Path], str]
) -> None:
    rule, overrides = SPOILT[spoilt]
    overrides = {key: dict(value) if isinstance(value, dict) else value for key, value in overrides.items()}
    folder = write_adapter(tiny_model, tmp_path, "bad", **overrides)
    (fault,) = check_health(folder, base=read_base_shapes(tiny_model)).faults
    assert fault.rule == rule
    refusal = check_in_worker(folder)
    assert fault.message in refusal


def test_both_checks_name_moe_lora(tiny_model: Path, tmp_path: Path) -> None:
    tensors = {"model.layers.0.q_moe_lora.lora_a": np.ones((4, 4), np.float32)}
    folder = write_adapter(tiny_model, tmp_path, "old", tensors=tensors)
    (fault,) = check_health(folder).faults
    assert (fault.rule, "MoE-LoRA of KIKI-Mac_tunner" in fault.reason) == ("format", True)
    with pytest.raises(StageFailed, match=r"'old' .* MoE-LoRA of KIKI-Mac_tunner"):
        parse_pairs("old", (folder / "adapters.safetensors").read_bytes(), {}, scale=1.0)


def test_both_checks_take_a_healthy_adapter(
    tiny_model: Path, tmp_path: Path, check_in_worker: Callable[[Path], str]
) -> None:
    folder = write_adapter(tiny_model, tmp_path, "good")
    assert check_health(folder, base=read_base_shapes(tiny_model)).is_healthy
    assert check_in_worker(folder) == ""
