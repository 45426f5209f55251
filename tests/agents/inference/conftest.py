"""The real small model behind the engine, and random adapters for it."""

import functools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.inference.mlx import cpu
from agents.inference.settings import InferenceSettings
from tests import adapters

cpu.preload()  # before any test module of this folder imports MLX

WriteAdapter = Callable[..., Path]


@pytest.fixture(scope="session")
def write_adapter(small_model: Path) -> WriteAdapter:
    """Writes a random LoRA adapter of the small model, in mlx-lm's format, into ``folder / name``."""
    return functools.partial(adapters.write_adapter, small_model)


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
    from agents.inference.mlx.loading import load

    return load(settings)


@pytest.fixture(scope="session")
async def engine(settings: InferenceSettings) -> AsyncIterator[Any]:
    """One running engine for the session."""
    from agents.inference.mlx.engine import MlxEngine

    running = MlxEngine(settings)
    await running.start()
    yield running
    await running.stop()
