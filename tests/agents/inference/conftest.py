"""The real small model behind the engine, and random adapters for it."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from agents.inference import blas
from agents.inference.settings import InferenceSettings

blas.preload()  # before any test module of this folder imports MLX

WriteAdapter = Callable[..., Path]
TARGETS = ("self_attn.q_proj", "self_attn.v_proj")


@pytest.fixture(scope="session")
def write_adapter(small_model: Path) -> WriteAdapter:
    """Writes a random LoRA adapter of the small model, in mlx-lm's format, into ``folder / name``."""
    config = json.loads((small_model / "config.json").read_text())
    width, layers, kv = config["hidden_size"], config["num_hidden_layers"], config["num_key_value_heads"]
    outputs = {"self_attn.q_proj": width, "self_attn.v_proj": width // config["num_attention_heads"] * kv}

    def write(folder: Path, name: str, *, seed: int = 0, rank: int = 4, size: float = 0.3, **changed: Any) -> Path:
        random = np.random.default_rng(seed)
        tensors = {}
        for layer in range(layers):
            for target in TARGETS:
                path = f"model.layers.{layer}.{target}"
                shape = (width, rank), (rank, outputs[target])
                tensors[f"{path}.lora_a"] = (random.standard_normal(shape[0]) * size).astype(np.float32)
                tensors[f"{path}.lora_b"] = (random.standard_normal(shape[1]) * size).astype(np.float32)
        tensors.update(changed.pop("tensors", {}))
        parameters = {"rank": rank, "scale": 1.0, "dropout": 0.0, "keys": list(TARGETS)}
        adapter = {"fine_tune_type": "lora", "num_layers": layers, "lora_parameters": parameters} | changed
        (folder / name).mkdir(parents=True)
        (folder / name / "adapter_config.json").write_text(json.dumps(adapter))
        save_file(tensors, folder / name / "adapters.safetensors")
        return folder / name

    return write


@pytest.fixture(scope="session")
def adapters_folder(tmp_path_factory: pytest.TempPathFactory, write_adapter: WriteAdapter) -> Path:
    """Two healthy adapters (``one``, ``two``) and one whose lora_b is all zeros (``dead``)."""
    folder = tmp_path_factory.mktemp("adapters")
    write_adapter(folder, "one", seed=1)
    write_adapter(folder, "two", seed=2)
    zeros = {"model.layers.3.self_attn.v_proj.lora_b": np.zeros((4, 192), np.float32)}
    write_adapter(folder, "dead", seed=3, tensors=zeros)
    return folder


@pytest.fixture(scope="session")
def settings(small_model: Path, adapters_folder: Path) -> InferenceSettings:
    """The worker's settings for the small model."""
    return InferenceSettings(model=small_model, model_name="smollm2", model_digest="digest", adapters=adapters_folder)


@pytest.fixture(scope="session")
def loaded(settings: InferenceSettings) -> Any:
    """The model in the test's own thread, for what needs no engine."""
    from agents.inference.loading import load

    return load(settings)


@pytest.fixture(scope="session")
async def engine(settings: InferenceSettings) -> AsyncIterator[Any]:
    """One running engine for the session."""
    from agents.inference.local import MlxEngine

    running = MlxEngine(settings)
    await running.start()
    yield running
    await running.stop()
