"""One query to the memory: search the store, rank the matches. Turns, ``memory.search`` and benchmarks share it."""

from collections.abc import Sequence

from agents.memory.context import unit, unpacked
from agents.memory.ranking import Match, ScoredMatch, demote_superseded, fill_own_cosines, fuse_scores
from agents.memory.settings import MemorySettings
from agents.memory.stores.pair import Stores
from agents.memory.stores.points import Lookup


async def find(stores: Stores, lookup: Lookup, *, now: float, settings: MemorySettings) -> list[ScoredMatch]:
    """The owner's episodes, best first; no floor and no budget is applied.

    Raises:
        Unavailable: the store failed, is closed or busy.
    """
    return rank_matches(await stores.atlas.search(lookup), lookup, now=now, settings=settings)


def rank_matches(
    matches: Sequence[Match], lookup: Lookup, *, now: float, settings: MemorySettings
) -> list[ScoredMatch]:
    """The store's matches, best first."""
    ranking = fuse_scores(matches, text=lookup.text, now=now, settings=settings)
    best = [candidate.match for candidate in ranking[: settings.compared]]
    pairs = ((match.episode_id, unpacked(match.vector)) for match in best)
    vectors = {name: vector for name, vector in pairs if vector is not None}
    query_vector = unit(lookup.vector) if lookup.vector else None
    return demote_superseded(fill_own_cosines(ranking, vectors, query_vector), vectors, settings=settings)
