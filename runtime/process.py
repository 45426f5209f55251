"""One operating-system process of the runtime: the agents it was asked to run, until told to stop.

A supervised process also ends when its supervisor does: it reads its standard input, which the supervisor
holds open, and an end of file means that nobody is left to watch it.
"""

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

import anyio
import anyio.abc
import structlog

from bus import metrics
from bus.agent import Agent, run_agent
from bus.connection import Bus, connect
from runtime import composition, observability
from runtime.agents import FACADE
from runtime.exits import FAILED_EXIT
from runtime.heartbeat import beat
from runtime.settings import Settings, load_settings
from schemas.errors import SetupError

SUPERVISED = "KIKI_SUPERVISED"
"""Set in the environment of a process whose standard input is held by a supervisor."""

HANGS = "KIKI_HANGS"
"""How many processes of the same agents were killed before this one because they gave no sign of life."""

ORPHAN_SECONDS = 10.0
"""Seconds that a process whose supervisor is gone has to end in good order; a hung event loop has no other end."""

_log = structlog.get_logger("runtime")


def run(names: Sequence[str]) -> None:
    """Run the named agents (or ``facade``) with this process's settings and logs.

    Raises:
        SetupError: an agent cannot start here, or the data directory cannot be made.
        Unavailable: no broker answers.
    """
    settings = load_settings()
    make_data_directory(settings)
    observability.configure(settings, service="+".join(composition.group_by_process(names)))
    anyio.run(serve, names, settings, backend="asyncio")


async def serve(names: Sequence[str], settings: Settings) -> None:
    """Run the named agents (or ``facade``) on one connection until SIGTERM, SIGINT or the supervisor's end.

    Raises:
        SetupError: an agent cannot start here.
        Unavailable: no broker answers.
    """
    agents = [composition.build_agent(name, settings) for name in names if name != FACADE]
    if hangs := int(os.environ.get(HANGS, "0")):
        metrics.DEGRADED.labels("process.hung").inc(hangs)  # the supervisor has logged why
    async with (
        connect(composition.bus_settings(settings), name=f"kiki-{'-'.join(names)}") as bus,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(_stop_on_signal, tasks.cancel_scope)
        if os.environ.get(SUPERVISED):
            tasks.start_soon(_stop_with_supervisor, tasks.cancel_scope)
        if FACADE in names:
            tasks.start_soon(composition.serve_facade, bus, settings)
        await _start_agents(agents, bus, tasks)
        tasks.start_soon(beat)


def make_data_directory(settings: Settings) -> None:
    """Make the data directory, in which agents keep what must outlive them.

    Raises:
        SetupError: it cannot be made.
    """
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"cannot make the data directory {settings.data_dir} ({error.strerror}): set KIKI_DATA_DIR.",
            param="data_dir",
        ) from error


async def _start_agents(agents: Sequence[Agent], bus: Bus, tasks: anyio.abc.TaskGroup) -> None:
    """Start all at once, as one may wait for another; return when every one takes work."""
    async with anyio.create_task_group() as starting:
        for agent in agents:
            starting.start_soon(tasks.start, run_agent, agent, bus)


async def _stop_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            _log.info("process stopping", signal=number.name)
            scope.cancel()
            return


async def _stop_with_supervisor(scope: anyio.CancelScope) -> None:
    loop, supervisor_ended = asyncio.get_running_loop(), asyncio.Event()

    def read_to_end() -> None:
        with contextlib.suppress(OSError, RuntimeError):  # the loop may have ended first
            while os.read(sys.stdin.fileno(), 1024):
                pass
            loop.call_soon_threadsafe(supervisor_ended.set)
            time.sleep(ORPHAN_SECONDS)
            os._exit(FAILED_EXIT)

    # A daemon: one that must be joined would keep a process that has failed from ever ending.
    threading.Thread(target=read_to_end, name="supervisor", daemon=True).start()
    await supervisor_ended.wait()
    _log.warning("supervisor gone")
    scope.cancel()
