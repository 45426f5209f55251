"""Which weights a CPU gets: by the settings, or by a reading that is made once for a machine."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.nn as nn
import msgspec
import numpy as np
import pytest

from agents.inference.int8 import selection
from agents.inference.int8.kernel import KernelUnavailable
from agents.inference.int8.selection import SMALLEST, WeightsReading, describe_machine, measure, select_weights
from agents.inference.settings import InferenceSettings
from schemas.errors import SetupError


def new_settings(choice: Any, folder: Path | None = None) -> InferenceSettings:
    return InferenceSettings(model_name="m", cpu_weights=choice, int8_folder=folder)


class LayerHolder(nn.Module):  # type: ignore[misc]
    """A model of two layers, of which the second is the largest."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 8), nn.Linear(64, 32)


@pytest.fixture
def measured_layers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The layers that were measured; int8 is twice as fast for each of them."""
    layers: list[Any] = []

    def note_layer(layer: Any) -> WeightsReading:
        layers.append(layer)
        return WeightsReading(machine=selection.describe_machine(), int8_ms=1.0, float32_ms=2.0)

    monkeypatch.setattr(selection, "measure", note_layer)
    return layers


@pytest.fixture
def without_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise KernelUnavailable("torch's library is not loaded")

    monkeypatch.setattr(selection, "use_threads", refuse)


@pytest.mark.parametrize("choice", ["int8", "float32"])
def test_explicit_settings_are_taken_without_a_measurement(choice: Any, measured_layers: list[Any]) -> None:
    for parameters in (SMALLEST // 10, SMALLEST * 10):
        assert select_weights(LayerHolder(), new_settings(choice), parameters=parameters) == choice
    assert measured_layers == []


def test_small_models_stay_float32_and_others_are_measured(measured_layers: list[Any]) -> None:
    model = LayerHolder()
    assert select_weights(model, new_settings("auto"), parameters=SMALLEST - 1) == "float32"
    assert measured_layers == []
    assert select_weights(model, new_settings("auto"), parameters=SMALLEST) == "int8"
    assert measured_layers == [model.second], "the largest"


@pytest.mark.parametrize(("int8_ms", "choice"), [(1.9, "int8"), (2.0, "int8"), (2.1, "float32")])
def test_the_faster_weights_are_taken_and_int8_when_both_are_equal(
    int8_ms: float, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = WeightsReading(machine=describe_machine(), int8_ms=int8_ms, float32_ms=2.0)
    monkeypatch.setattr(selection, "measure", lambda _: reading)
    assert select_weights(LayerHolder(), new_settings("auto"), parameters=SMALLEST) == choice


def test_a_reading_is_made_once_and_kept(measured_layers: list[Any], tmp_path: Path) -> None:
    folder = tmp_path / "new" / "int8"
    for _ in range(3):
        assert select_weights(LayerHolder(), new_settings("auto", folder), parameters=SMALLEST) == "int8"
    assert len(measured_layers) == 1
    assert [path.name for path in folder.iterdir()] == ["reading.json"]
    slow = WeightsReading(machine=describe_machine(), int8_ms=9.0, float32_ms=2.0)
    (folder / "reading.json").write_bytes(msgspec.json.encode(slow))
    assert select_weights(LayerHolder(), new_settings("auto", folder), parameters=SMALLEST) == "float32"
    assert len(measured_layers) == 1, "what was kept decides"


def test_another_machine_is_measured_again(
    measured_layers: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for machine in ("one", "two", "two"):
        monkeypatch.setattr(selection, "describe_machine", lambda machine=machine: machine)
        select_weights(LayerHolder(), new_settings("auto", tmp_path), parameters=SMALLEST)
    assert len(measured_layers) == 2
    kept_reading = msgspec.json.decode((tmp_path / "reading.json").read_bytes(), type=WeightsReading)
    assert kept_reading.machine == "two"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"machine": 3}', b"[]"])
def test_a_damaged_reading_is_made_again(content: bytes, measured_layers: list[Any], tmp_path: Path) -> None:
    (tmp_path / "reading.json").write_bytes(content)
    for _ in range(2):
        assert select_weights(LayerHolder(), new_settings("auto", tmp_path), parameters=SMALLEST) == "int8"
    assert len(measured_layers) == 1


def test_a_model_without_linear_layers_stays_float32(measured_layers: list[Any]) -> None:
    assert select_weights(nn.RMSNorm(8), new_settings("auto"), parameters=SMALLEST) == "float32"
    assert measured_layers == []


@pytest.mark.usefixtures("without_kernel")
def test_int8_without_a_kernel_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(SetupError, match="not loaded: set 'float32' or 'auto'") as caught:
        select_weights(LayerHolder(), new_settings("int8"), parameters=SMALLEST)
    assert caught.value.param == "cpu_weights"


@pytest.mark.usefixtures("without_kernel")
def test_auto_without_a_kernel_is_float32(measured_layers: list[Any], tmp_path: Path) -> None:
    for choice in ("auto", "float32"):
        assert select_weights(LayerHolder(), new_settings(choice, tmp_path), parameters=SMALLEST) == "float32"
    assert measured_layers == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("quantised", [False, True])
def test_a_layer_is_measured_both_ways_and_left_alone(quantised: bool) -> None:
    layer: Any = nn.Linear(256, 512)
    if quantised:
        layer = layer.to_quantized(group_size=32, bits=4)
    before = np.array(layer.weight)
    reading = measure(layer)
    assert reading.machine == describe_machine()
    assert 0.0 < reading.int8_ms < 1000.0
    assert 0.0 < reading.float32_ms < 1000.0
    np.testing.assert_array_equal(layer.weight, before)


def test_the_description_names_the_versions_that_compute() -> None:
    assert f"mlx {version('mlx')}" in describe_machine()
    assert "torch 2" in describe_machine()


def test_a_reading_that_cannot_be_kept_is_counted_and_decides_all_the_same(
    measured_layers: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    monkeypatch.setattr(selection, "count_degraded", lambda path, error: counted.append(error))
    (tmp_path / "file").write_bytes(b"")
    settings = new_settings("auto", tmp_path / "file")
    assert select_weights(LayerHolder(), settings, parameters=SMALLEST) == "int8"
    assert len(measured_layers) == len(counted) == 1
    assert "cannot be written" in counted[0]
