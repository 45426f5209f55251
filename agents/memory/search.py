"""One query to the memory: search the store, rank the matches. Turns, ``memory.search`` and benchmarks share it."""

from collections.abc import Iterable, Sequence

from agents.memory.answers import drop_own_answers
from agents.memory.context import unit, unpacked
from agents.memory.ranking import (
    Match,
    Measure,
    ScoredMatch,
    demote_superseded,
    drop_duplicates,
    fill_own_cosines,
    fit_budget,
    fuse_scores,
    hits,
    keep_relevant,
)
from agents.memory.settings import MemorySettings
from agents.memory.stores.pair import Stores
from agents.memory.stores.points import Lookup
from agents.memory.words import WordEncoder
from schemas.findings import RecalledEpisode


async def find(stores: Stores, lookup: Lookup, *, now: float, settings: MemorySettings) -> list[ScoredMatch]:
    """The tenant's episodes, best first; no floor and no budget is applied.

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


def choose_hits(
    ranking: Iterable[ScoredMatch],
    *,
    text: str,
    session_id: str,
    words: WordEncoder,
    settings: MemorySettings,
    measure: Measure = len,
) -> tuple[RecalledEpisode, ...]:
    """What a turn of the session that asks ``text`` is shown of the best matches: above the floor, none twice, within
    the budget, and without the assistant's own answers to the same question."""
    relevant = keep_relevant(ranking, text=text, words=words, settings=settings, session_id=session_id)
    distinct = drop_duplicates(drop_own_answers(relevant, text=text, words=words, settings=settings))
    return fit_budget(hits(distinct), settings=settings, measure=measure)
