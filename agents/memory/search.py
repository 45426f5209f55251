"""One query to the memory: search the store, rank the matches. Turns, ``memory.search`` and benchmarks share it."""

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from types import MappingProxyType

from msgspec.structs import replace

from agents.memory.answers import drop_own_answers
from agents.memory.context import unit, unpacked
from agents.memory.ranking import (
    Match,
    Measure,
    ScoredMatch,
    date_spans,
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
from agents.memory.stores.stored import Lookup
from agents.memory.superseding import is_replaceable, least_cosine
from agents.memory.text.words import WordEncoder
from schemas.findings import RecalledEpisode


async def find(stores: Stores, lookup: Lookup, *, now: float, settings: MemorySettings) -> list[ScoredMatch]:
    """The owner's episodes, best first; no floor and no budget is applied.

    Raises:
        Unavailable: the store failed, is closed or busy.
    """
    matches = await search_atlas(stores, lookup, now=now)
    ranking = fuse_scores(matches, text=lookup.text, now=now, settings=settings)
    keys = await _find_replacements(stores, lookup, ranking, settings)
    ids = {match.key: match.episode_id for match in matches}
    if missing := set(keys.values()) - ids.keys():
        brought = await stores.atlas.read(sorted(missing))
        ids |= {key: match.episode_id for key, match in brought.items()}
        ranking += fuse_scores([*brought.values()], text=lookup.text, now=now, settings=settings)
    known = {ids[older]: ids[newer] for older, newer in keys.items() if newer in ids}
    return _close_ranking(ranking, lookup, settings, known)


async def search_atlas(stores: Stores, lookup: Lookup, *, now: float) -> list[Match]:
    """The candidates: the owner's best episodes, and the best of the dates that the query names.

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
    """The candidates, best first, without what the graph knows of them."""
    return _close_ranking(fuse_scores(matches, text=lookup.text, now=now, settings=settings), lookup, settings, {})


async def _find_replacements(
    stores: Stores, lookup: Lookup, ranking: Sequence[ScoredMatch], settings: MemorySettings
) -> Mapping[str, str]:
    """Ask the graph what replaced the best episodes: store keys, the older episode's with the newer one's.

    So what replaced them is shown though the query does not find it. A lookup within one session knows nothing of the
    others.
    """
    best = (candidate.match for candidate in ranking[: settings.max_hits])
    names = [match.key for match in best if is_replaceable(match.question)]
    if (
        not names
        or lookup.session_id is not None
        or least_cosine(settings.embedder_in_force, settings.same_fact) >= 1.0
    ):
        return MappingProxyType({})
    as_of = inf if lookup.as_of is None else lookup.as_of
    return await stores.trace.find_superseded(names, as_of=as_of)


def _close_ranking(
    ranking: Sequence[ScoredMatch], lookup: Lookup, settings: MemorySettings, known: Mapping[str, str]
) -> list[ScoredMatch]:
    best = [candidate.match for candidate in ranking[: settings.compared]]
    pairs = ((match.episode_id, unpacked(match.vector)) for match in best)
    vectors = {name: vector for name, vector in pairs if vector is not None}
    query_vector = unit(lookup.vector) if lookup.vector else None
    return demote_superseded(fill_own_cosines(ranking, vectors, query_vector), vectors, settings=settings, known=known)


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
