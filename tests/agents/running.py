"""Agents that serve on a bus for as long as a test needs them."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import anyio

from agents.embedder.agent import EmbedderAgent
from agents.embedder.settings import EmbedderSettings
from bus.agent import Agent, run_agent
from bus.connection import Bus


@contextlib.asynccontextmanager
async def run_agents(bus: Bus, *agents: Agent) -> AsyncIterator[None]:
    """All of ``agents`` take work, each from when those before it do."""
    async with anyio.create_task_group() as tasks:
        for agent in agents:
            await tasks.start(run_agent, agent, bus)
        yield
        tasks.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def run_embedder(bus: Bus, model: Path) -> AsyncIterator[EmbedderAgent]:
    """The real embedder."""
    agent = EmbedderAgent(EmbedderSettings(model=model))
    async with run_agents(bus, agent):
        yield agent
