"""Adapters read from disk: types, layouts, scales, files that are cut or foreign."""

import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from agents.shared.adapters.files import AdapterFile, kind_of, layer_of, shorten_path
from agents.shared.adapters.low_rank import Factors
from agents.shared.adapters.rules import UnfitAdapter
from agents.shared.adapters.tensors import TensorFile
from tests.agents.shared.adapters.written import RANK, random_changes, write_mlx, write_peft, write_tensors


@pytest.mark.parametrize(("dtype", "error"), [("F64", 0.0), ("F32", 0.0), ("F16", 2**-11), ("BF16", 2**-7)])
def test_each_type_is_read_as_float32(tmp_path: Path, dtype: str, error: float) -> None:
    values = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    write_tensors(tmp_path / "x.safetensors", {"first": np.ones(3), "values": values, "last": np.zeros((2, 2))}, dtype)
    file = TensorFile(tmp_path / "x.safetensors")
    read = file.read("values")
    assert (read.dtype.name, read.shape) == ("float32", (5, 7))
    assert (file.shapes["values"], file.types["values"]) == ((5, 7), dtype)
    np.testing.assert_allclose(read, values, rtol=error)
    np.testing.assert_array_equal(file.read("last"), np.zeros((2, 2)))


def test_bfloat16_reads_as_torch_reads_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    values = torch.randn(6, 4).to(torch.bfloat16)
    values[0, :2] = torch.tensor([float("nan"), float("-inf")])
    save_torch({"x": values}, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(TensorFile(tmp_path / "x.safetensors").read("x"), values.float().numpy())


@pytest.mark.parametrize("cut", [0, 4, 20, 200, -1])
def test_a_file_that_is_cut_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"x": np.ones((40, 40))})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"header|ends before"):
        TensorFile(path)


def test_a_type_that_no_adapter_has_is_refused(tmp_path: Path) -> None:
    save_file({"x": np.ones((4, 4), np.int32)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="x is of type I32"):
        TensorFile(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("config", "scale"),
    [({}, 1.0), ({"lora_alpha": 2 * RANK}, 2.0), ({"lora_alpha": 8, "use_rslora": True}, 8 / math.sqrt(RANK))],
)
def test_both_layouts_read_alike(tmp_path: Path, config: dict[str, Any], scale: float) -> None:
    changes = random_changes(1)
    mlx = AdapterFile(write_mlx(tmp_path / "mlx", changes, lora_parameters={"scale": scale}))
    peft = AdapterFile(write_peft(tmp_path / "peft", changes, **config))
    assert mlx.modules == peft.modules == tuple(sorted(changes))
    for module, factors in changes.items():
        assert mlx.shapes(module) == peft.shapes(module)
        for file in (mlx, peft):
            expected = scale * factors.left @ factors.right
            np.testing.assert_allclose(file.read(module).change, expected, rtol=1e-4, atol=1e-4)


def test_the_rank_of_each_module_scales_it(tmp_path: Path) -> None:
    changes = {"layers.0.mlp.gate": Factors(np.ones((6, 2)), np.ones((2, 3))),
               "layers.1.mlp.gate": Factors(np.ones((6, 4)), np.ones((4, 3)))}  # fmt: skip
    file = AdapterFile(write_peft(tmp_path / "x", changes, lora_alpha=8, rank_pattern={"layers.1.mlp.gate": 4}))
    for module, factors in changes.items():
        np.testing.assert_allclose(file.read(module).change, 8 / factors.rank * factors.change)


def test_an_expert_that_peft_left_out_changes_nothing(tmp_path: Path) -> None:
    module = "layers.0.mlp.switch_mlp.up_proj"
    folder = write_peft(tmp_path / "x", {module: random_changes(1)[module]})
    stored = TensorFile(folder / "adapter_model.safetensors")
    kept = {name: stored.read(name) for name in stored.shapes if ".experts.1." not in name}
    write_tensors(folder / "adapter_model.safetensors", kept)
    change = AdapterFile(folder).read(module).change
    assert [bool(expert.any()) for expert in change] == [True, False, True, True]


def test_one_module_is_in_memory_at_a_time(tmp_path: Path) -> None:
    changes = {f"layers.{layer}.mlp.up_proj": Factors(np.ones((5000, 16)), np.ones((16, 5000))) for layer in range(20)}
    file = AdapterFile(write_mlx(tmp_path / "x", changes, dtype="BF16"))
    tracemalloc.start()
    for module in file.modules:
        file.read(module)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert file.tensors.nbytes > 6_000_000
    assert peak < 3_000_000


@pytest.mark.parametrize(
    ("tensors", "rule", "why"),
    [
        ({}, "pairs", "no tensors"),
        ({"layers.0.mlp.gate.lora_a": np.ones((2, 2))}, "pairs", "lora_b"),
        ({"layers.0.mlp.gate.weight": np.ones((2, 2))}, "pairs", "weight"),
        ({"layers.0.mlp.gate_moe_lora.experts.0.lora_a": np.ones((2, 2))}, "format", "MoE-LoRA of KIKI-Mac_tunner"),
    ],
)
def test_tensors_that_are_no_lora_are_refused(tmp_path: Path, tensors: dict[str, Any], rule: str, why: str) -> None:
    folder = write_mlx(tmp_path / "x", {})
    write_tensors(folder / "adapters.safetensors", tensors)
    with pytest.raises(UnfitAdapter, match=why) as caught:
        AdapterFile(folder)
    assert (caught.value.rule, caught.value.code) == (rule, "adapter_failed")
    assert caught.value.mend


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"fine_tune_type": "dora"}, "fine_tune_type is 'dora'"),
        ({"lora_parameters": {"alpha": 16}}, "no lora_parameters.scale"),
        ({"lora_parameters": None}, "no lora_parameters.scale"),
        ({"lora_parameters": {"scale": 0}}, "scale .* 0"),
        ({"lora_parameters": {"scale": math.nan}}, "scale .* nan"),
        ({"lora_parameters": {"scale": True}}, "scale .* True"),
    ],
)
def test_a_configuration_without_a_scale_is_refused(tmp_path: Path, config: dict[str, Any], why: str) -> None:
    with pytest.raises(UnfitAdapter, match=why):
        AdapterFile(write_mlx(tmp_path / "x", random_changes(1), **config))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "LOHA"}, "not LoRA"),
        ({"bias": "all"}, "not LoRA"),
        ({"lora_alpha": None}, "no lora_alpha"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ],
)
def test_peft_beyond_plain_lora_is_refused(tmp_path: Path, config: dict[str, Any], why: str) -> None:
    with pytest.raises(UnfitAdapter, match=why):
        AdapterFile(write_peft(tmp_path / "x", random_changes(1), **config))


def test_paths_of_every_base_are_shortened_to_one() -> None:
    for root in ("", "model.", "language_model.model.", "model.language_model."):
        assert shorten_path(f"{root}layers.12.mlp.gate") == "layers.12.mlp.gate"
    assert shorten_path("language_model.lm_head") == shorten_path("lm_head") == "lm_head"
    assert (kind_of("layers.12.mlp.gate"), layer_of("layers.12.mlp.gate")) == ("mlp.gate", 12)
    assert (kind_of("embed_tokens"), layer_of("embed_tokens")) == ("embed_tokens", None)
