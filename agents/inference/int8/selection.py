"""Whether a model's weights are int8 or float32 on this CPU: by measurement at the first start, then by what was kept.

The largest layer decides. Like all others in turn, it does not fit a processor's cache, so that the memory's rate
counts. Small models stay float32: they have little to gain, and SmolLM2-135M's answers change where those of a model of
half a billion weights do not.
"""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import msgspec
import numpy as np
import structlog

from agents.inference.int8.conversion import find_largest, quantise, wide_weight
from agents.inference.int8.kernel import Floats, KernelUnavailable, use_threads
from agents.inference.int8.layers import Product
from agents.inference.settings import InferenceSettings
from agents.shared.disk import replace_file
from bus.metrics import count_degraded
from schemas.errors import SetupError

CpuWeights = Literal["int8", "float32"]

SMALLEST = 300_000_000
"""Weights of the smallest model that is measured; chosen."""

ROWS = (1, 3, 8)
"""Tokens in the products that are timed: one answer, three candidates, a busy worker."""

MEASURED_WEIGHTS = 32 * 1024**2
"""Weights of the layer that are measured at most: 128 MB of float32."""

ROUNDS = 5

_log = structlog.get_logger("inference")


class WeightsReading(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured on a machine: milliseconds of the products with :data:`ROWS`, and what they choose."""

    machine: str
    int8_ms: float
    float32_ms: float

    @property
    def choice(self) -> CpuWeights:
        """The faster one; int8, which takes a quarter of the memory, when they are equal."""
        return "int8" if self.int8_ms <= self.float32_ms else "float32"


def select_weights(model: Any, settings: InferenceSettings, *, parameters: int) -> CpuWeights:
    """What the settings say, or what is faster here for a model of so many weights.

    Raises:
        SetupError: the settings say int8, and there is no kernel for it.
    """
    if settings.cpu_weights == "float32" or (settings.cpu_weights == "auto" and parameters < SMALLEST):
        return "float32"
    try:
        use_threads()
    except KernelUnavailable as error:
        if settings.cpu_weights == "int8":
            raise SetupError(
                f"cpu_weights is 'int8', and {error}: set 'float32' or 'auto'.", param="cpu_weights"
            ) from error
        _log.warning("int8 unavailable", error=str(error))
        return "float32"
    if settings.cpu_weights == "int8":
        return "int8"
    file = settings.int8_folder and settings.int8_folder / "reading.json"
    reading = _read(file)
    if reading is None and (layer := find_largest(model)) is not None:
        reading = measure(layer)
        _log.info(
            "weights measured",
            choice=reading.choice,
            int8_ms=round(reading.int8_ms, 1),
            float32_ms=round(reading.float32_ms, 1),
        )
        _write(file, reading)
    return reading.choice if reading is not None else "float32"


def measure(layer: Any) -> WeightsReading:
    """Time the products of a layer, both ways."""
    weight = wide_weight(layer)
    weight = weight[: max(1, MEASURED_WEIGHTS // weight.shape[1])]
    product, transposed = Product(quantise([weight])), weight.astype(mx.float32).T
    mx.eval(transposed)

    def multiply_float32(tokens: Floats) -> None:
        mx.eval(mx.array(tokens) @ transposed)

    tokens = [np.ones((rows, weight.shape[1]), np.float32) for rows in ROWS]
    return WeightsReading(
        machine=describe_machine(),
        int8_ms=sum(_time(product.multiply, array) for array in tokens),
        float32_ms=sum(_time(multiply_float32, array) for array in tokens),
    )


def describe_machine() -> str:
    """The processor, its cores and the versions of what computes: a reading holds as long as these are the same."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("mlx", "torch")]
    return ", ".join([_processor(), f"{os.cpu_count()} cores", *versions])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _time(multiply: Callable[[Floats], object], tokens: Floats) -> float:
    """Milliseconds of the fastest of some calls."""
    durations = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        multiply(tokens)
        durations.append(time.perf_counter() - began)
    return min(durations) * 1000


def _read(file: Path | None) -> WeightsReading | None:
    """The kept reading, if it was made on such a machine."""
    try:
        reading = msgspec.json.decode(file.read_bytes(), type=WeightsReading) if file is not None else None
    except (OSError, msgspec.DecodeError):
        return None
    return reading if reading is not None and reading.machine == describe_machine() else None


def _write(file: Path | None, reading: WeightsReading) -> None:
    if file is None:
        return
    try:
        with replace_file(file) as temporary:
            temporary.write_bytes(msgspec.json.encode(reading))
    except OSError as error:
        count_degraded("inference.int8", f"{file} cannot be written, so each start measures again: {error}")
