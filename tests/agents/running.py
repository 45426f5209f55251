"""Agents that serve on a bus for as long as a test needs them."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from agents.embedder.agent import EmbedderAgent
from agents.embedder.settings import EmbedderSettings
from bus.connection import Bus
from bus.testing import run_agents


@contextlib.asynccontextmanager
async def run_embedder(bus: Bus, model: Path) -> AsyncIterator[EmbedderAgent]:
    """The real embedder."""
    agent = EmbedderAgent(EmbedderSettings(model=model))
    async with run_agents(bus, agent):
        yield agent
