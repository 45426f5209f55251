"""The small model with int8 weights, rounded once for the session."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.inference.settings import InferenceSettings


@pytest.fixture(scope="session")
def int8_settings(settings: InferenceSettings, tmp_path_factory: pytest.TempPathFactory) -> InferenceSettings:
    """The worker's settings for the small model with int8 weights."""
    folder: Path = tmp_path_factory.mktemp("int8")
    return msgspec.structs.replace(settings, cpu_weights="int8", int8_folder=folder)


@pytest.fixture(scope="session")
def int8_bundle(int8_settings: InferenceSettings) -> Any:
    """The model in the test's own thread."""
    from agents.inference.mlx.loading import load

    return load(int8_settings)
