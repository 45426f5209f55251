"""Failpoints: off they do nothing; an armed window kills one process once or slows it down; a clock can be moved."""

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus import failpoints
from bus.failpoints.windows import CONTROL
from tests.test_names import ROOMS, trees

pytestmark = pytest.mark.anyio

RACER = """
import sys, time, anyio
from bus.failpoints import pass_window
print("ready", flush=True)
sys.stdin.readline()
for _ in range(50):
    anyio.run(pass_window, "delivery.taken")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Failpoints are on in this process, which is called ``memory``."""
    monkeypatch.setattr(CONTROL, "folder", tmp_path)
    monkeypatch.setattr(CONTROL, "process", "memory")
    return tmp_path


def start_process(script: str, folder: Path | None) -> "subprocess.Popen[str]":
    """A Python process with failpoints on, if there is a folder."""
    variables = {name: value for name, value in os.environ.items() if name != failpoints.FAILPOINTS}
    if folder is not None:
        variables[failpoints.FAILPOINTS] = str(folder)
    return subprocess.Popen(
        [sys.executable, "-c", script], env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def find_window_names() -> Iterator[str]:
    """The first argument of every call that passes a window, from the sources."""
    for path, tree in trees(*ROOMS):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and "pass_window" in ast.unparse(node.func):
                name = node.args[0]
                assert isinstance(name, ast.Constant), f"{path}:{node.lineno} names no window"
                yield str(name.value)


def test_the_windows_are_those_that_the_code_passes() -> None:
    assert set(find_window_names()) == set(failpoints.WINDOWS)
    assert len(set(failpoints.WINDOWS)) == len(failpoints.WINDOWS)


def test_one_of_two_processes_that_race_for_a_file_dies(tmp_path: Path) -> None:
    (tmp_path / "delivery.taken").write_text("kill")
    racers = [start_process(RACER, tmp_path) for _ in range(2)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    for racer in racers:
        racer.communicate(timeout=60)
    assert sorted(racer.returncode for racer in racers) == [-signal.SIGKILL, 0]
    assert not list(tmp_path.iterdir())


def test_failpoints_are_off_without_a_folder(tmp_path: Path) -> None:
    (tmp_path / "delivery.taken").write_text("kill")
    (tmp_path / "clock").write_text("1000")
    script = (
        "import time, anyio; from bus.failpoints import *\n"
        "clock = time.time; install_clock('router'); assert time.time is clock\n"
        "anyio.run(pass_window, 'delivery.taken'); pass_window_in_thread('delivery.taken')"
    )
    process = start_process(script, None)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "delivery.taken").exists()


async def test_an_armed_window_slows_every_passage_down_until_the_file_is_gone(folder: Path) -> None:
    file = folder / "memory.disk"
    file.write_text("sleep 0.1")
    for _ in range(2):
        started = time.monotonic()
        await failpoints.pass_window("memory.disk")
        failpoints.pass_window_in_thread("memory.disk")
        assert time.monotonic() - started >= 0.2
    file.unlink()
    started = time.monotonic()
    await failpoints.pass_window("memory.disk")
    assert time.monotonic() - started < 0.1


async def test_a_file_with_a_process_name_means_that_process_alone(folder: Path) -> None:
    (folder / "memory.disk.router").write_text("sleep 60")
    (folder / "memory.disk.memory").write_text("sleep 0.1")
    (folder / "memory.disk").write_text("sleep 60")
    started = time.monotonic()
    await failpoints.pass_window("memory.disk")
    assert 0.1 <= time.monotonic() - started < 30


async def test_an_unknown_action_is_named(folder: Path) -> None:
    (folder / "memory.disk").write_text("explode")
    with pytest.raises(ValueError, match=r"memory.disk holds 'explode': write 'kill' or 'sleep SECONDS'"):
        await failpoints.pass_window("memory.disk")


def test_the_clock_follows_its_file_and_no_timer_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", time.time)  # put back at the end
    monkeypatch.setattr("bus.failpoints.clock.LOOK_SECONDS", 0.0)
    read_time, timer = time.time, time.monotonic()
    failpoints.install_clock("memory")
    for name, seconds, ahead in (
        ("clock.router", 60.0, 0.0),
        ("clock", 3600.0, 3600.0),
        ("clock.memory", -7200.0, -7200.0),
    ):
        (folder / name).write_text(str(seconds))
        assert time.time() - read_time() == pytest.approx(ahead, abs=1.0)
    (folder / "clock").unlink()
    (folder / "clock.memory").unlink()
    assert time.time() - read_time() == pytest.approx(0.0, abs=1.0)
    assert time.monotonic() - timer < 60
