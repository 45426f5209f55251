"""One question to the memory, from the stores to an order: the path that turns, searches and benchmarks share."""

from collections.abc import Sequence

from agents.memory.context import unit, unpacked
from agents.memory.ranking import Match, Scored, compared, fused, superseded
from agents.memory.settings import MemorySettings
from agents.memory.stores.pair import Stores
from agents.memory.stores.points import Ask


async def find(stores: Stores, ask: Ask, *, now: float, settings: MemorySettings) -> list[Scored]:
    """The tenant's episodes, best first; no floor and no budget is applied.

    Raises:
        Unavailable: the store failed, is closed or busy.
    """
    return ordered(await stores.atlas.search(ask), ask, now=now, settings=settings)


def ordered(matches: Sequence[Match], ask: Ask, *, now: float, settings: MemorySettings) -> list[Scored]:
    """What the store found, best first."""
    ranked = fused(matches, text=ask.text, now=now, settings=settings)
    best = [one.match for one in ranked[: settings.compared]]
    unpack = ((match.episode_id, unpacked(match.vector)) for match in best)
    vectors = {name: vector for name, vector in unpack if vector is not None}
    asked = unit(ask.vector) if ask.vector else None
    return superseded(compared(ranked, vectors, asked), vectors, settings=settings)
