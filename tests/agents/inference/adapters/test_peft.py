"""Adapters in PEFT's layout change the model as the same adapters in mlx-lm's do."""

import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from agents.inference.adapters.bank import AdapterBank
from schemas.errors import StageFailed
from schemas.findings import AdapterUse
from tests.agents.inference import hybrid

RANK, ALPHA = 4, 8
KINDS = ("embed_tokens", *(kind for kind in hybrid.KINDS if kind != "lm_head"))


@pytest.fixture(scope="module")
def model() -> Any:
    return hybrid.build(quantized=False, tied=True)


def write_as_peft(source: Path, target: Path, **config: Any) -> None:
    """Write an mlx-lm adapter as PEFT would have stored it, with transformers' names and one tensor an expert."""
    tensors = {}
    for key, tensor in load_file(source / "adapters.safetensors").items():
        path, _, leaf = key.rpartition(".")
        path = path.replace("language_model.model.", "model.language_model.")
        side = leaf[-1].upper()
        if tensor.ndim == 3:
            for number, expert in enumerate(tensor):
                name = path.replace("switch_mlp", f"experts.{number}")
                tensors[f"base_model.model.{name}.lora_{side}.weight"] = np.ascontiguousarray(expert)
        elif path.endswith("embed_tokens"):
            tensors[f"base_model.model.{path}.lora_embedding_{side}"] = np.ascontiguousarray(tensor.T)
        else:
            tensors[f"base_model.model.{path}.lora_{side}.weight"] = np.ascontiguousarray(tensor.T)
    target.mkdir()
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none"} | config
    (target / "adapter_config.json").write_text(json.dumps(settings))
    save_file(tensors, target / "adapter_model.safetensors")


def logits(bank: AdapterBank, model: Any, name: str) -> Any:
    bank.activate((AdapterUse(name=name),))
    values = np.array(model(mx.array([[1, 2, 3, 4]])))
    bank.activate(())
    return values


@pytest.mark.parametrize(("rslora", "scale"), [(False, ALPHA / RANK), (True, ALPHA / math.sqrt(RANK))])
def test_both_layouts_change_the_model_alike(model: Any, tmp_path: Path, rslora: bool, scale: float) -> None:
    hybrid.write(tmp_path, model, "mlx", kinds=KINDS, seed=1, rank=RANK, size=0.1)
    parameters = {"fine_tune_type": "lora", "lora_parameters": {"rank": RANK, "scale": scale}}
    (tmp_path / "mlx" / "adapter_config.json").write_text(json.dumps(parameters))
    write_as_peft(tmp_path / "mlx", tmp_path / "peft", use_rslora=rslora)
    bank = AdapterBank(model, tmp_path, budget=64 * 1024**2)
    assert bank.registered_names == ("mlx", "peft")
    assert bank.load("peft").pairs.keys() == bank.load("mlx").pairs.keys()
    np.testing.assert_allclose(logits(bank, model, "peft"), logits(bank, model, "mlx"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "LOHA"}, "not LoRA"),
        ({"bias": "all"}, "not LoRA"),
        ({"lora_alpha": None}, "no lora_alpha"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ],
)
def test_adapters_beyond_plain_lora_say_why(model: Any, tmp_path: Path, changed: dict[str, Any], why: str) -> None:
    hybrid.write(tmp_path, model, "mlx", kinds=("q_proj",), seed=1, rank=RANK, size=0.1)
    write_as_peft(tmp_path / "mlx", tmp_path / "peft", **changed)
    with pytest.raises(StageFailed, match=why):
        AdapterBank(model, tmp_path, budget=64 * 1024**2).load("peft")


def test_unpaired_and_foreign_tensors_are_refused(model: Any, tmp_path: Path) -> None:
    hybrid.write(tmp_path, model, "mlx", kinds=("q_proj",), seed=1, rank=RANK, size=0.1)
    write_as_peft(tmp_path / "mlx", tmp_path / "peft")
    path = tmp_path / "peft" / "adapter_model.safetensors"
    tensors = load_file(path)
    absent = next(name for name in tensors if "lora_B" in name)
    save_file({name: tensor for name, tensor in tensors.items() if name != absent}, path)
    with pytest.raises(StageFailed, match="do not come in pairs"):
        AdapterBank(model, tmp_path, budget=64 * 1024**2).load("peft")
    save_file(tensors | {"base_model.model.q.weight": np.ones((2, 2), np.float32)}, path)
    with pytest.raises(StageFailed, match="no LoRA tensor"):
        AdapterBank(model, tmp_path, budget=64 * 1024**2).load("peft")
