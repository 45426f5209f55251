"""One question to the memory, from the stores to an order: the path that turns, searches and benchmarks share."""

from agents.memory.atlas import Ask
from agents.memory.recall import Scored, fused, superseded
from agents.memory.settings import MemorySettings
from agents.memory.stores import Stores


async def find(stores: Stores, ask: Ask, *, now: float, settings: MemorySettings) -> list[Scored]:
    """The tenant's episodes, best first; no floor and no budget is applied.

    Raises:
        Unavailable: the store failed, is closed or busy.
    """
    matches = await stores.atlas.run(lambda atlas: atlas.search(ask), abandon=True)
    ranked = fused(matches, text=ask.text, now=now, settings=settings)
    best = [one.match for one in ranked[: settings.compared]]
    vectors = await stores.atlas.run(lambda atlas: atlas.vectors(best, tenant=ask.tenant), abandon=True)
    return superseded(ranked, vectors, settings=settings)
