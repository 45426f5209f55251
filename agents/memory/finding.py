"""One question to the memory, from the stores to an order: the path that turns, searches and benchmarks share."""

from functools import partial

from agents.memory.atlas import Ask, Atlas
from agents.memory.context import unit, unpacked
from agents.memory.recall import Scored, compared, fused, superseded
from agents.memory.settings import MemorySettings
from agents.memory.stores import Stores


async def find(stores: Stores, ask: Ask, *, now: float, settings: MemorySettings) -> list[Scored]:
    """The tenant's episodes, best first; no floor and no budget is applied.

    Raises:
        Unavailable: the store failed, is closed or busy.
    """
    return await stores.atlas.run(partial(_find, ask=ask, now=now, settings=settings), abandon=True)


def _find(atlas: Atlas, *, ask: Ask, now: float, settings: MemorySettings) -> list[Scored]:
    """All of it in one visit to the store's thread: a change of threads costs as much as a search."""
    ranked = fused(atlas.search(ask), text=ask.text, now=now, settings=settings)
    best = [one.match for one in ranked[: settings.compared]]
    unpack = ((match.episode_id, unpacked(match.vector)) for match in best)
    vectors = {name: vector for name, vector in unpack if vector is not None}
    asked = unit(ask.vector) if ask.vector else None
    return superseded(compared(ranked, vectors, asked), vectors, settings=settings)
