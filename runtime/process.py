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
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager

import anyio
import anyio.abc
import structlog

from bus import failpoints, metrics
from bus.access.users import make_private
from bus.agent import Agent, run_agent
from bus.background import Outage
from bus.connection import Bus, connect
from runtime import access, composition, observability
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
    """Run the named agents (or ``facade``) on a connection for each role until SIGTERM, SIGINT or the supervisor's end.

    Raises:
        SetupError: an agent cannot start here.
        Unavailable: no broker answers.
    """
    failpoints.install_clock("+".join(composition.group_by_process(names)))
    agents = [(access.role_of(name), composition.build_agent(name, settings)) for name in names if name != FACADE]
    if hangs := int(os.environ.get(HANGS, "0")):
        metrics.DEGRADED.labels("process.hung").inc(hangs)  # the supervisor has logged why
    async with contextlib.AsyncExitStack() as stack:
        outage = Outage()
        buses = {
            role: await stack.enter_async_context(_connect(settings, role, names, outage))
            for role in dict.fromkeys(map(access.role_of, names))
        }
        tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(_stop_on_signal, tasks.cancel_scope)
        if os.environ.get(SUPERVISED):
            tasks.start_soon(_stop_with_supervisor, tasks.cancel_scope)
        if FACADE in names:
            tasks.start_soon(composition.serve_facade, buses[FACADE], settings)
        await _start_agents(agents, buses, tasks)
        tasks.start_soon(beat)


def _connect(settings: Settings, role: str, names: Sequence[str], outage: Outage) -> AbstractAsyncContextManager[Bus]:
    """A connection of the role's user, named after those of its agents that run here."""
    own = [name for name in names if access.role_of(name) == role]
    return connect(composition.bus_settings(settings, user=role), name=f"kiki-{'-'.join(own)}", outage=outage)


def make_data_directory(settings: Settings) -> None:
    """Make the data directory, in which agents keep what must outlive them.

    Raises:
        SetupError: it cannot be made.
    """
    try:
        make_private(settings.data_dir)
    except OSError as error:
        raise SetupError(
            f"cannot make the data directory {settings.data_dir} ({error.strerror}): set KIKI_DATA_DIR.",
            param="data_dir",
        ) from error


async def _start_agents(
    agents: Sequence[tuple[str, Agent]], buses: Mapping[str, Bus], tasks: anyio.abc.TaskGroup
) -> None:
    """Start all at once, each on its role's bus, as one may wait for another; return when every one takes work."""
    async with anyio.create_task_group() as starting:
        for role, agent in agents:
            starting.start_soon(tasks.start, run_agent, agent, buses[role])


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
