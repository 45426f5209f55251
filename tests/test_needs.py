"""The markers of what a test needs are found in its code, its fixtures' and its helpers'."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from bus import broker
from bus.broker import run_broker
from bus.testing import connect_fresh
from tests.needs import CALLS, MODULES, PROGRAMS, needs_of

ROOT = Path(__file__).parents[1]


async def start_broker_itself() -> None:
    async with run_broker(Path("x"), port=0):
        pass


def find_broker_by_its_module() -> str:
    return broker.find_executable()


async def connect_in_a_helper() -> None:
    await read_with_connection()


async def read_with_connection() -> None:
    async with connect_fresh("nats://x"):
        pass


def import_inside() -> Any:
    from runtime.models import prepare

    return prepare("x")


def nest_it() -> Any:
    def inner() -> Any:
        return import_inside()

    return inner


def use_mlx() -> Any:
    import mlx.core as mx

    return mx.zeros(1)


def run_program() -> None:
    subprocess.run([sys.executable, "-m", "pip"], check=True)


async def open_process() -> None:
    await anyio.open_process(["true"])


def look_for_go() -> str | None:
    return shutil.which("go")


def call_itself(depth: int) -> int:
    return call_itself(depth - 1) if depth else len(json.dumps("go, pip, model"))


class Helper:
    def start(self) -> Any:
        return import_inside()


@pytest.mark.parametrize(
    ("function", "needs"),
    [
        (start_broker_itself, {"broker"}),
        (find_broker_by_its_module, {"broker"}),
        (connect_in_a_helper, {"broker"}),
        (import_inside, {"model"}),
        (nest_it, {"model"}),
        (Helper, {"model"}),
        (use_mlx, {"mlx"}),
        (run_program, {"process", "packages"}),
        (open_process, {"process"}),
        (look_for_go, {"go"}),
        (call_itself, set()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_need_is_found_however_the_call_is_written(function: Any, needs: set[str]) -> None:
    assert needs_of(function) == needs


def test_every_need_is_a_marker_of_pytest(pytestconfig: pytest.Config) -> None:
    markers = {line.partition(":")[0] for line in pytestconfig.getini("markers")}
    assert {*CALLS, *MODULES, *PROGRAMS.values()} <= markers


def test_markers_choose_tests() -> None:
    """A whole run of pytest: this repository's own hook marks, and ``-m`` chooses."""

    def collect(expression: str) -> str:
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", expression, "tests/bus/test_turn.py"]
        command += ["tests/bus/test_stream.py"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "test_stream.py::" in collect("broker")
    without = collect("not broker")
    assert "test_turn.py::" in without
    assert "test_stream.py::" not in without
