"""A router and its embedder for the command line, in this process and without a bus."""

import contextlib
from collections.abc import AsyncIterator

from agents.embedder.agent import EmbedderAgent
from agents.router.agent import RouterAgent
from runtime.composition import build_agent
from runtime.settings import Settings


@contextlib.asynccontextmanager
async def load_router(settings: Settings) -> AsyncIterator[RouterAgent]:
    """A router that routes prompts for as long as the context lasts.

    Raises:
        SetupError: the embedder's model or the checkpoint cannot be loaded.
    """
    embedder, router = build_agent("embedder", settings), build_agent("router", settings)
    assert isinstance(embedder, EmbedderAgent)
    assert isinstance(router, RouterAgent)
    async with embedder.load_model():
        await router.load_weights(embedder.embed)
        yield router
