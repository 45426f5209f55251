"""The base's shapes: mlx-lm's weights, quantised ones, transformers' with single and with fused experts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from agents.shared.adapters.rules import ModuleShape
from agents.shared.adapters.shapes import read_base_shapes
from schemas.errors import SetupError


def write_base(folder: Path, shapes: dict[str, tuple[int, ...]], **config: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    names = sorted(shapes)
    for number, part in enumerate((names[::2], names[1::2])):
        tensors = {name: np.zeros(shapes[name], np.uint32 if "packed" in name else np.float32) for name in part}
        save_file(tensors, folder / f"model-{number}.safetensors")
    return folder


EXPECTED = {
    "embed_tokens": ModuleShape(100, 64),
    "layers.0.self_attn.q_proj": ModuleShape(64, 32),
    "layers.0.mlp.switch_mlp.gate_proj": ModuleShape(64, 16, 4),
    "layers.0.mlp.switch_mlp.up_proj": ModuleShape(64, 16, 4),
    "layers.0.mlp.switch_mlp.down_proj": ModuleShape(16, 64, 4),
}
PLAIN: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (100, 64), "layers.0.self_attn.q_proj.weight": (32, 64),
         "layers.0.input_layernorm.weight": (64,), "layers.0.linear_attn.conv1d.weight": (96, 4, 1),
         "layers.0.linear_attn.A_log": (8,)}  # fmt: skip
SWITCH: dict[str, tuple[int, ...]] = {
    "layers.0.mlp.switch_mlp.gate_proj.weight": (4, 16, 64),
    "layers.0.mlp.switch_mlp.up_proj.weight": (4, 16, 64),
    "layers.0.mlp.switch_mlp.down_proj.weight": (4, 64, 16),
}
SINGLE: dict[str, tuple[int, ...]] = {
    f"layers.0.mlp.experts.{number}.{leaf}_proj.weight": (64, 16) if leaf == "down" else (16, 64)
    for number in range(4)
    for leaf in ("gate", "up", "down")
}
FUSED: dict[str, tuple[int, ...]] = {
    "layers.0.mlp.experts.gate_up_proj": (4, 32, 64),
    "layers.0.mlp.experts.down_proj": (4, 64, 16),
}


@pytest.mark.parametrize("experts", [SWITCH, SINGLE, FUSED])
@pytest.mark.parametrize("root", ["model.", "language_model.model.", "model.language_model."])
def test_every_form_of_a_base_has_the_same_shapes(
    tmp_path: Path, experts: dict[str, tuple[int, ...]], root: str
) -> None:
    base = write_base(tmp_path / "base", {root + name: shape for name, shape in (PLAIN | experts).items()})
    assert read_base_shapes(base) == EXPECTED


def test_quantised_weights_are_counted_unpacked(tmp_path: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "model.layers.0.mlp.up_proj.weight": (128, 64 * 4 // 32),
        "model.layers.0.mlp.up_proj.scales": (128, 1),
        "model.layers.0.mlp.up_proj.biases": (128, 1),
        "model.layers.0.mlp.gate.weight": (8, 64 * 8 // 32),
        "model.layers.0.mlp.gate.scales": (8, 1),
    }
    quantization = {"group_size": 64, "bits": 4, "model.layers.0.mlp.gate": {"group_size": 64, "bits": 8}}
    base = write_base(tmp_path / "base", shapes, quantization=quantization)
    assert read_base_shapes(base) == {
        "layers.0.mlp.up_proj": ModuleShape(64, 128),
        "layers.0.mlp.gate": ModuleShape(64, 8),
    }


def test_the_shapes_are_those_of_the_loaded_model(tmp_path: Path) -> None:
    from agents.inference.mlx import cpu

    cpu.preload()
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

    from agents.shared.adapters.files import shorten_path
    from tests.agents.inference import hybrid

    for quantized in (False, True):
        model = hybrid.build(quantized=quantized)
        folder = tmp_path / str(quantized)
        folder.mkdir()
        mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
        own = {
            path: {"group_size": 64, "bits": module.bits}
            for path, module in model.named_modules()
            if hasattr(module, "bits")
        }
        config = {"quantization": {"group_size": 64, "bits": 4} | own} if quantized else {}
        (folder / "config.json").write_text(json.dumps(config))
        shapes, modules = read_base_shapes(folder), dict(model.named_modules())
        paths = hybrid.paths(model, hybrid.KINDS)
        assert len(paths) > 40
        for path in paths:
            assert shapes[shorten_path(path)].pair(4) == hybrid.shapes(modules[path], 4)
        assert any(isinstance(modules[path], (SwitchLinear, QuantizedSwitchLinear)) for path in paths)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no model directory"):
        read_base_shapes(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SetupError, match="no safetensors weights"):
        read_base_shapes(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(SetupError, match="no model directory"):
        read_base_shapes(tmp_path)
