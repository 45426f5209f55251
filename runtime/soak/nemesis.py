"""What breaks a runtime in a soak. Each fault breaks something, holds it for a while, and sees to it that it is whole.

A fault draws its details from dice, so a seed repeats them; which message is under way when they hit, it cannot repeat.
"""

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
import psutil

from bus.connection import connect
from bus.failpoints import WINDOWS
from runtime.soak import isolation
from runtime.soak.history import FaultHealed, SoakHistory
from runtime.soak.scene import BROKER, SUPERVISOR, SoakScene
from schemas.calls import MEMORY_REBUILD
from schemas.errors import KikiError
from schemas.memory import RebuildRequest

BACK_SECONDS = 90.0
"""Longest wait for a process that was ended to be there again."""

WINDOW_SECONDS = 20.0
"""Seconds that a window stays armed when no process passes it."""


OTHER_WINDOWS = frozenset({"sleep.recorded", "shard.named"})
"""Windows that no process passes within an hour: tests/fault/test_windows.py opens them."""


@dataclass(frozen=True)
class Strike:
    """One use of a fault: where, with which dice, and ``note``, which is told what exactly is broken."""

    scene: SoakScene
    dice: random.Random
    note: Callable[[str], None]

    def draw_process(self, *without: str) -> tuple[str, psutil.Process | None]:
        """A process, but the supervisor and those of ``without``; None when none runs just now."""
        running = self.scene.find_processes()
        names = sorted(running.keys() - {SUPERVISOR, *without})
        name = self.dice.choice(names) if names else "none"
        return name, running.get(name)

    async def hold(self, least: float, most: float) -> None:
        """Leave it broken for some seconds."""
        await anyio.sleep(self.dice.uniform(least, most))


Fault = Callable[[Strike], Awaitable[None]]


async def kill_process(strike: Strike) -> None:
    """kill -9 of one process."""
    name, process = strike.draw_process(BROKER)
    strike.note(name)
    if process is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


async def pause_process(strike: Strike) -> None:
    """SIGSTOP of one process or of the broker, at times for so long that it is taken for hung and killed."""
    name, process = strike.draw_process()
    seconds = strike.dice.choice((0.5, 3.0, 8.0, 20.0)) * strike.dice.uniform(0.7, 1.3)
    strike.note(f"{name} for {seconds:.1f} s")
    if process is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
            try:
                await anyio.sleep(seconds)
            finally:
                process.resume()


async def kill_broker(strike: Strike) -> None:
    """kill -9 of the broker, at times twice within seconds."""
    times = strike.dice.choice((1, 1, 2))
    strike.note(f"{times} times")
    for _ in range(times):
        if (broker := strike.scene.find_processes().get(BROKER)) is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                broker.kill()
        await strike.hold(0.2, 3.0)


async def kill_everything(strike: Strike) -> None:
    """kill -9 of all processes at once, and a new start on what they left."""
    await anyio.to_thread.run_sync(strike.scene.kill_everything)
    await strike.hold(0.0, 2.0)
    await strike.scene.start_and_wait()


async def restart_in_turn(strike: Strike) -> None:
    """SIGTERM to each process, one after the other, as for an update."""
    names = sorted(strike.scene.find_processes().keys() - {SUPERVISOR, BROKER})
    strike.dice.shuffle(names)
    strike.note(" ".join(names))
    for name in names:
        process = strike.scene.find_processes().get(name)
        if process is None:
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
        await _wait_for_another(strike.scene, name, process.pid)
        await strike.hold(0.0, 2.0)


async def pull_cable(strike: Strike) -> None:
    """A partition: what lies behind the cable and the rest hear nothing of each other."""
    cable = strike.scene.cable
    assert cable is not None
    seconds = strike.dice.choice((1.0, 5.0, 15.0, 45.0)) * strike.dice.uniform(0.7, 1.3)
    strike.note(f"{', '.join(sorted(strike.scene.remote))} for {seconds:.1f} s")
    with cable.pull():
        await anyio.sleep(seconds)


async def fill_disk(strike: Strike) -> None:
    """A data directory without a free byte."""
    with isolation.fill_disk(strike.scene.data_dir):
        await strike.hold(2.0, 15.0)


async def slow_disk(strike: Strike) -> None:
    """Writes of the memory's stores that take long."""
    seconds = strike.dice.choice((0.05, 0.3, 2.0))
    strike.note(f"{seconds} s a write")
    with _arm(strike.scene.failpoints / "memory.disk", f"sleep {seconds}"):
        await strike.hold(3.0, 15.0)


async def turn_clock(strike: Strike) -> None:
    """A clock that jumps, of one process or of all."""
    seconds = strike.dice.choice((-3600.0, -120.0, -5.0, 5.0, 120.0, 3600.0))
    names = sorted(strike.scene.find_processes().keys() - {SUPERVISOR, BROKER})
    name = strike.dice.choice(["", *(f".{name}" for name in names)])
    strike.note(f"{name.removeprefix('.') or 'all'} by {seconds:+.0f} s")
    with _arm(strike.scene.failpoints / f"clock{name}", str(seconds)):
        await strike.hold(3.0, 20.0)


async def kill_in_window(strike: Strike) -> None:
    """kill -9 of the process that next passes a named place in our code."""
    window = strike.dice.choice(sorted(set(WINDOWS) - OTHER_WINDOWS))
    path = strike.scene.failpoints / window
    with _arm(path, "kill"), anyio.move_on_after(WINDOW_SECONDS) as waiting:
        async with anyio.create_task_group() as tasks:
            if window.startswith("rebuild."):
                tasks.start_soon(_rebuild, strike.scene)
            while path.exists():
                await anyio.sleep(0.05)
            tasks.cancel_scope.cancel()
    strike.note(f"{window}{', which nobody passed' if waiting.cancelled_caught else ''}")


async def damage_store(strike: Strike) -> None:
    """A file of the memory's stores that is cut or gone when its process, killed, starts again."""
    process = strike.scene.find_processes().get("memory")
    folder = strike.scene.data_dir / "memory"
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock" and ".broken-" not in str(path)  # a store that is set aside
    )
    if process is None or not files:
        strike.note("nothing to damage")
        return
    path, length = strike.dice.choice(files), strike.dice.random()
    with contextlib.suppress(psutil.NoSuchProcess):
        process.suspend()
        if strike.dice.random() < 0.4 or (size := path.stat().st_size) == 0:
            strike.note(f"{path.relative_to(folder)} is gone")
            path.unlink()
        else:
            strike.note(f"{path.relative_to(folder)} is cut from {size} to {int(size * length)} bytes")
            os.truncate(path, int(size * length))
        process.kill()
    await _wait_for_another(strike.scene, "memory", process.pid)


async def keep_busy(strike: Strike) -> None:
    """Other work on all cores."""
    count = os.cpu_count() or 1
    strike.note(f"{count} processes")
    with _busy(count):
        await strike.hold(5.0, 20.0)


FAULTS: Mapping[str, Fault] = {
    "kill": kill_process,
    "pause": pause_process,
    "broker": kill_broker,
    "everything": kill_everything,
    "rolling": restart_in_turn,
    "partition": pull_cable,
    "full-disk": fill_disk,
    "slow-disk": slow_disk,
    "clock": turn_clock,
    "window": kill_in_window,
    "damage": damage_store,
    "busy": keep_busy,
}
"""All faults, by the names that ``--only`` takes."""

NEED_NAMESPACES = frozenset({"partition", "full-disk"})
"""Faults that the soak can use only where it has namespaces of its own."""


async def strike_once(name: str, scene: SoakScene, dice: random.Random, history: SoakHistory) -> None:
    """Use a fault, and note when it began and when it was whole again."""
    began, details = time.monotonic(), list[str]()
    try:
        await FAULTS[name](Strike(scene, dice, details.append))
    finally:
        history.add(FaultHealed(began=began, name=name, detail=" ".join(details)))


async def _rebuild(scene: SoakScene) -> None:
    """Have the stores made again from the record, as far as it comes."""
    with contextlib.suppress(KikiError):
        async with connect(scene.broker, name="kiki-soak") as bus:
            await bus.request(MEMORY_REBUILD, RebuildRequest(), timeout=WINDOW_SECONDS)


async def _wait_for_another(scene: SoakScene, name: str, pid: int) -> None:
    """Wait until another process runs under that name, and a turn can be answered."""
    with anyio.move_on_after(BACK_SECONDS):
        while True:
            process = scene.find_processes().get(name)
            if process is not None and process.pid != pid and await scene.is_ready():
                return
            await anyio.sleep(0.2)


@contextlib.contextmanager
def _arm(path: Path, text: str) -> Iterator[None]:
    """A failpoint's file, whole from the moment that it is there."""
    draft = path.with_name(f".{path.name}")
    draft.write_text(text)
    draft.rename(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    """So many processes that do nothing but run."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
