"""A memory agent for a command: the running runtime's, or one that is started for as long as the command lasts."""

import contextlib
from collections.abc import AsyncIterator

import anyio

from bus.agent import gather_reports
from bus.connection import Bus, connect
from runtime.agents import own_memory_embedder
from runtime.composition import bus_settings
from runtime.settings import Settings
from runtime.supervisor import Supervisor
from schemas.errors import SetupError, Unavailable

MEMORY = "memory"
EMBEDDER = "embedder"
READY_SECONDS = 60.0


@contextlib.asynccontextmanager
async def open_memory(settings: Settings, *extra_agents: str) -> AsyncIterator[Bus]:
    """A bus on which a memory agent answers.

    If no broker answers at the settings' address, a broker and a memory agent are started on the settings' data folder,
    with the embedder if the memory has one of its own, and with ``extra_agents``. With ``settings.nats`` set nothing is
    started.

    Raises:
        Unavailable: a broker answers, but no memory agent; or ``settings.nats`` is set and no broker answers there.
        SetupError: the memory cannot be started.
    """
    async with contextlib.AsyncExitStack() as stack:
        try:
            bus = await stack.enter_async_context(connect(bus_settings(settings), name="kiki-memory"))
        except Unavailable:
            if settings.nats is not None:
                raise
            bus = await _start_memory(settings, stack, extra_agents)
        else:
            if not await _memory_is_ready(bus):
                raise Unavailable("no memory agent answers: start it with 'kiki up' or 'kiki run memory'.")
        yield bus


async def _start_memory(settings: Settings, stack: contextlib.AsyncExitStack, extra_agents: tuple[str, ...]) -> Bus:
    embedder = () if own_memory_embedder(settings) is None else (EMBEDDER,)
    supervisor = Supervisor(settings, names=tuple(dict.fromkeys((MEMORY, *embedder, *extra_agents))))
    await stack.enter_async_context(supervisor.running())
    bus = await stack.enter_async_context(connect(bus_settings(supervisor.settings), name="kiki-memory"))
    with anyio.move_on_after(READY_SECONDS):
        while not await _memory_is_ready(bus):
            await anyio.sleep(0.05)
        return bus
    raise SetupError(f"the memory was not ready after {READY_SECONDS:.0f} s; {supervisor.log_path(MEMORY)} says why.")


async def _memory_is_ready(bus: Bus) -> bool:
    return any(
        report.status.agent == MEMORY and report.status.ready for report in await gather_reports(bus, expected=[MEMORY])
    )
