"""A memory agent on a bus, and waiting for what it does."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import msgspec
import pytest

from agents.memory.agent import MemoryAgent
from agents.memory.settings import MemorySettings
from bus.agent import run_agent
from bus.connection import Bus
from schemas.status import StatusReply


@contextlib.asynccontextmanager
async def serving(bus: Bus, settings: MemorySettings) -> AsyncIterator[MemoryAgent]:
    """The agent as the runtime serves it."""
    agent = MemoryAgent(settings)
    async with anyio.create_task_group() as tasks:
        await tasks.start(run_agent, agent, bus)
        yield agent
        tasks.cancel_scope.cancel()


async def eventually(check: Callable[[], Awaitable[Any]], *, seconds: float = 45.0) -> Any:
    """Await ``check`` until it gives something truthy."""
    with anyio.move_on_after(seconds):
        while True:
            if result := await check():
                return result
            await anyio.sleep(0.02)
    pytest.fail(f"did not happen within {seconds} s")


async def wait_for_projection(bus: Bus, atlas: int, trace: int) -> StatusReply:
    """Wait until the gauges show so many episodes and no lag."""

    async def read_status() -> StatusReply | None:
        status = await bus.request("status.memory", msgspec.Struct(), StatusReply, timeout=5.0)
        gauges = status.gauges
        expected = {"atlas_episodes": atlas, "trace_episodes": trace, "projection_lag": 0}
        return status if all(gauges.get(name) == value for name, value in expected.items()) else None

    status = await eventually(read_status)
    assert isinstance(status, StatusReply)
    return status
