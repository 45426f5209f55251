"""Loads a faster BLAS for MLX on Linux CPUs.

MLX's CPU wheel for Linux carries the reference BLAS (3.6 GFLOP/s measured); torch's library exports an optimised
``sgemm_`` (about 250 GFLOP/s on the same two cores). When it is loaded first, with global symbols, MLX uses it. Only
float32 gains.

Only half of the cores are used. Decoding is many small products, and waking another thread for each costs more than it
brings: on two cores a pass over 147 tokens of seven prompts took 1,050 ms with two threads and 670 ms with one, a
step of eight rows the same with either, and the other core is free for the broker, the embedders and the clients.
"""

import ctypes
import importlib.metadata
import os
import sys
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path

from bus.metrics import count_degraded


@cache
def preload() -> bool:
    """Load the faster BLAS. Call before ``mlx.core`` is imported; later calls do nothing.

    Returns:
        Whether it was loaded; always False on macOS and with a CUDA build of MLX, which need none.
    """
    if not sys.platform.startswith("linux") or _has_cuda_build():
        return False
    if "mlx.core" in sys.modules:
        count_degraded("inference.blas", "mlx.core was imported before the faster BLAS could be loaded")
        return False
    library = torch_library()
    if library is None:
        count_degraded("inference.blas", "torch is not installed; decoding on this CPU is several times slower")
        return False
    for name, value in environment().items():
        os.environ.setdefault(name, value)
    try:
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    except OSError as error:
        count_degraded("inference.blas", f"{library.name} cannot be loaded: {error}")
        return False
    return True


def _has_cuda_build() -> bool:
    return any((dist.name or "").lower().startswith("mlx-cuda") for dist in importlib.metadata.distributions())


def environment() -> dict[str, str]:
    """Environment variables that the library reads when it is loaded; values already set are kept."""
    # Threads that spin at a barrier starve each other on a busy machine: a prefill of 12 s took 1 s when they slept
    # instead.
    return {"OMP_WAIT_POLICY": "PASSIVE", "MKL_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2))}


def torch_library() -> Path | None:
    """The library of torch that carries the BLAS, or None where torch is not installed."""
    spec = PathFinder.find_spec("torch")  # imports nothing, and finds it in a process that hides the package
    if spec is None or not spec.submodule_search_locations:
        return None
    library = Path(spec.submodule_search_locations[0]) / "lib" / "libtorch_cpu.so"
    return library if library.exists() else None
