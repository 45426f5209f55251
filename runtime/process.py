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
from collections.abc import Sequence

import anyio
import anyio.abc
import structlog

from bus.agent import run_agent
from bus.connection import connect
from runtime import composition, observability
from runtime.agents import FACADE
from runtime.settings import Settings, load_settings

SUPERVISED = "KIKI_SUPERVISED"
"""Set in the environment of a process whose standard input is held by a supervisor."""

_log = structlog.get_logger("runtime")


def run(names: Sequence[str]) -> None:
    """Run the named agents (or ``facade``) with this process's settings and logs.

    Raises:
        SetupError: an agent cannot start here.
        Unavailable: no broker answers.
    """
    settings = load_settings()
    observability.configure(settings, service="+".join(composition.group_by_process(names)))
    anyio.run(serve, names, settings, backend="asyncio")


async def serve(names: Sequence[str], settings: Settings) -> None:
    """Run the named agents (or ``facade``) on one connection until SIGTERM, SIGINT or the supervisor's end.

    Raises:
        SetupError: an agent cannot start here.
        Unavailable: no broker answers.
    """
    agents = [composition.build_agent(name, settings) for name in names if name != FACADE]
    async with (
        connect(composition.bus_settings(settings), name=f"kiki-{'-'.join(names)}") as bus,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(_stop_on_signal, tasks.cancel_scope)
        if os.environ.get(SUPERVISED):
            tasks.start_soon(_stop_with_supervisor, tasks.cancel_scope)
        for agent in agents:
            tasks.start_soon(run_agent, agent, bus)
        if FACADE in names:
            tasks.start_soon(composition.serve_facade, bus, settings)


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

    # A daemon: one that must be joined would keep a process that has failed from ever ending.
    threading.Thread(target=read_to_end, name="supervisor", daemon=True).start()
    await supervisor_ended.wait()
    _log.warning("supervisor gone")
    scope.cancel()
