"""A memory agent for a command: the running runtime's, or one that is started for as long as the command lasts."""

import contextlib
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import anyio

from bus.agent import gather_reports
from bus.broker.ownership import Holder, find_holder
from bus.connection import Bus, connect
from runtime.agents import own_memory_embedder
from runtime.composition import broker_url, bus_settings
from runtime.settings import Settings
from runtime.supervisor import Supervisor
from schemas.errors import SetupError, Unavailable

MEMORY = "memory"
EMBEDDER = "embedder"
READY_SECONDS = 60.0

HOLDER_SECONDS = 15.0
"""Seconds that the holder of the data directory has to start its broker."""

Say = Callable[[str], object]
"""Tells a person in one line whose memory is read."""


@contextlib.asynccontextmanager
async def open_memory(settings: Settings, *extra_agents: str, say: Say = lambda _: None) -> AsyncIterator[Bus]:
    """A bus on which a memory agent answers.

    It is that of ``settings.nats``, else of the process that holds the data directory, else of the broker that answers
    at ``settings.nats_port``. If none does, a broker and a memory agent are started on the data directory, with the
    embedder if the memory has one of its own, and with ``extra_agents``. With ``settings.nats`` set nothing is started.

    Raises:
        Unavailable: a broker answers, but no memory agent; or one that should answer does not.
        SetupError: the memory cannot be started, or the holder of the data directory uses a broker that is not its own.
    """
    holder = await _wait_for_holder(settings) if settings.nats is None else None
    async with contextlib.AsyncExitStack() as stack:
        try:
            bus = await stack.enter_async_context(connect(bus_settings(settings), name="kiki-memory"))
        except Unavailable:
            if settings.nats is not None or holder is not None:
                raise
            say(f"memory of {settings.data_dir}, opened for this command")
            bus = await _start_memory(settings, stack, extra_agents)
        else:
            say(_describe(settings, holder))
            if not await _memory_is_ready(bus):
                raise Unavailable("no memory agent answers: start it with 'kiki up' or 'kiki run memory'.")
        yield bus


async def _wait_for_holder(settings: Settings) -> Holder | None:
    """The process that holds the data directory, once its broker answers; None when nobody holds it."""
    holder = find_holder(settings.data_dir)
    with anyio.move_on_after(HOLDER_SECONDS):
        while holder is not None and not holder.url and not holder.is_elsewhere:
            await anyio.sleep(0.05)
            holder = find_holder(settings.data_dir)
    if holder is None or holder.url:
        return holder
    mend = "give its NATS server with --nats or KIKI_NATS" if holder.is_elsewhere else "try again once it is ready"
    raise SetupError(f"{settings.data_dir} is held by {holder}: {mend}.", param="data_dir")


def _describe(settings: Settings, holder: Holder | None) -> str:
    """Which broker and folder are read; a password in the broker's address is left out."""
    if holder is not None:
        return f"memory of {settings.data_dir}, held by {holder}"
    url = urlsplit(broker_url(settings))
    address = f"memory at {url.scheme}://{url.netloc.rpartition('@')[2]}"
    return address if settings.nats is not None else f"{address}; nobody holds {settings.data_dir}"


async def _start_memory(settings: Settings, stack: contextlib.AsyncExitStack, extra_agents: tuple[str, ...]) -> Bus:
    embedder = () if own_memory_embedder(settings) is None else (EMBEDDER,)
    names = tuple(dict.fromkeys((MEMORY, *embedder, *extra_agents)))
    supervisor = Supervisor(settings, names=names, title="a command on the memory")
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
