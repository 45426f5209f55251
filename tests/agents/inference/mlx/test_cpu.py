"""The BLAS that MLX multiplies with on a Linux CPU."""

import os
import subprocess
import sys

import pytest

from agents.inference.mlx import cpu

SCRIPT = """
import ctypes
from agents.inference.mlx import cpu
assert cpu.preload()
print(ctypes.CDLL(str(cpu.torch_library())).mkl_get_max_threads())
"""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux takes torch's BLAS")


def count_threads(**environment: str) -> int:
    base_environment = {name: value for name, value in os.environ.items() if name not in cpu.environment()}
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=base_environment | environment, capture_output=True, text=True, check=True
    )
    return int(process.stdout)


def test_half_of_the_cores_multiply() -> None:
    assert count_threads() == max(1, (os.cpu_count() or 1) // 2)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_the_environment_sets_the_thread_count() -> None:
    assert count_threads(MKL_NUM_THREADS="2") == 2
