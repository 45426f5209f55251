"""One query to the memory: search the store, rank the matches. Turns, ``memory.search`` and benchmarks share it."""

from collections.abc import Sequence

from msgspec.structs import replace

from agents.memory.context import unit, unpacked
from agents.memory.ranking import Match, ScoredMatch, date_spans, demote_superseded, fill_own_cosines, fuse_scores
from agents.memory.settings import MemorySettings
from agents.memory.stores.pair import Stores
from agents.memory.stores.points import Lookup


async def find(stores: Stores, lookup: Lookup, *, now: float, settings: MemorySettings) -> list[ScoredMatch]:
    """The owner's episodes, best first; no floor and no budget is applied.

    Raises:
        Unavailable: the store failed, is closed or busy.
    """
    matches = await search_atlas(stores, lookup, now=now)
    return rank_matches(matches, lookup, now=now, settings=settings)


async def search_atlas(stores: Stores, lookup: Lookup, *, now: float) -> list[Match]:
    """The candidates: the tenant's best episodes, and the best of the dates that the query names.

    Raises:
        Unavailable: the store failed, is closed or busy.
    """
    matches = await stores.atlas.search(lookup)
    if not (spans := date_spans(lookup.text, now=now)):
        return matches
    names = {match.episode_id for match in matches}
    dated = await stores.atlas.search(replace(lookup, within=spans))
    return matches + [match for match in dated if match.episode_id not in names]


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
