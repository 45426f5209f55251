"""Embeddings for the command line: by the running embedder, or by one loaded here when no runtime answers."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from bus.connection import Bus
from runtime.agents import own_memory_embedder
from runtime.settings import Settings
from schemas.calls import EMBED, MEMORY_EMBED, Service
from schemas.embedder import EmbedReply, EmbedRequest
from schemas.errors import Unavailable

Embed = Callable[[Sequence[str]], Awaitable[Sequence[tuple[float, ...]]]]
"""Unit vectors of at most :data:`BATCH` texts, in order."""

BATCH = 32
EMBED_SECONDS = 120.0
PROBE_SECONDS = 10.0
"""Seconds that a running embedder has to show that it answers."""

_PROBE = EmbedRequest(texts=("ready",))


@contextlib.asynccontextmanager
async def open_embedder(settings: Settings, bus: Bus | None = None) -> AsyncIterator[Embed]:
    """A function that embeds texts as the memory does, for as long as the context lasts.

    The embedder that answers on ``bus`` does it; without a bus or an answer one is loaded in this process.

    Raises:
        SetupError: the model cannot be loaded.
    """
    service = EMBED if own_memory_embedder(settings) is None else MEMORY_EMBED
    if bus is not None and await _embedder_answers(bus, service):

        async def embed_on_bus(texts: Sequence[str]) -> Sequence[tuple[float, ...]]:
            request = EmbedRequest(texts=tuple(texts))
            return (await bus.request(service, request, timeout=EMBED_SECONDS)).vectors

        yield embed_on_bus
        return
    from agents.embedder.agent import EmbedderAgent
    from runtime.composition import build_agent

    embedder = build_agent("embedder", settings)
    assert isinstance(embedder, EmbedderAgent)
    async with embedder.load_model():

        async def embed_here(texts: Sequence[str]) -> Sequence[tuple[float, ...]]:
            return (await embedder.embed_for_memory(EmbedRequest(texts=tuple(texts)))).vectors

        yield embed_here


async def _embedder_answers(bus: Bus, service: Service[EmbedRequest, EmbedReply]) -> bool:
    try:
        await bus.request(service, _PROBE, timeout=PROBE_SECONDS)
    except Unavailable:
        return False
    return True
