"""A memory agent on a bus, and functions that wait for its work."""

import contextlib
import faulthandler
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio

from agents.memory.agent import MemoryAgent
from agents.memory.settings import MemorySettings
from bus.connection import Bus
from bus.testing import run_agents
from schemas.calls import STATUS
from schemas.status import StatusReply


@contextlib.asynccontextmanager
async def run_memory_agent(bus: Bus, settings: MemorySettings) -> AsyncIterator[MemoryAgent]:
    """The agent as the runtime serves it."""
    agent = MemoryAgent(settings)
    async with run_agents(bus, agent):
        yield agent


async def eventually(check: Callable[[], Awaitable[Any]], *, seconds: float = 45.0) -> Any:
    """Await ``check`` until it gives something truthy."""
    with anyio.move_on_after(seconds):
        while True:
            if result := await check():
                return result
            await anyio.sleep(0.02)
    raise AssertionError(f"did not happen within {seconds} s")


async def wait_for_projection(bus: Bus, atlas: int, trace: int) -> StatusReply:
    """Wait until the gauges show so many episodes in each store and no lag; returns the agent's status."""
    expected = {"atlas_episodes": atlas, "trace_episodes": trace, "projection_lag": 0}
    latest: StatusReply | None = None

    async def read_status() -> StatusReply | None:
        nonlocal latest
        latest = await bus.request(STATUS.at("memory"), None, timeout=5.0)
        return latest if all(latest.gauges.get(name) == value for name, value in expected.items()) else None

    try:
        status = await eventually(read_status)
    except AssertionError as error:
        faulthandler.dump_traceback(file=2)  # a call into a store that hangs is on a thread
        raise AssertionError(f"{error}: expected {expected}, the memory reports {latest}") from None
    assert isinstance(status, StatusReply)
    return status
