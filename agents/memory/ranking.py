"""Chooses the episodes for a turn: fuses cosine, words, speaker, date and recency; applies floor and budget.

The cosine is added as it is. BM25 has no fixed scale, so each score is divided by the best one before it is added.
This was measured (``kiki bench locomo``) to be better than z-scores or reciprocal ranks; see docs/explain/ranking.md.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from types import MappingProxyType

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from agents.memory.context import Vector
from agents.memory.settings import MemorySettings
from agents.memory.superseding import corrects, least_cosine, says_otherwise
from agents.memory.text.asks import asks_for_words, says_something
from agents.memory.text.claims import read_claims
from agents.memory.text.dates import Span, resolve_dates
from agents.memory.text.smalltalk import is_small_talk
from agents.memory.text.words import WordEncoder, coverage, name_keys, split_words, text_language
from agents.shared.excerpt import shortened
from schemas.findings import RecalledEpisode

ROLES = frozenset({"", "user", "assistant", "system", "tool"})
"""Values of ``speaker`` that are roles and not names."""

SAME_MOMENT = 1e-6
"""Two episodes at most so many seconds apart count as simultaneous: qdrant-edge changes the last bit of some floats."""

TOLD_LATER = 86400.0
"""Seconds: what happened on a day is often told on the next."""

Measure = Callable[[str], int]
"""Gives the length of a text in the budget's unit."""

QUESTION_MARKS = ("?", "\uff1f", "\u061f", "\u037e")
"""What a question ends with: Latin, Chinese and Japanese, Arabic, Greek."""
_NAME = re.compile(r"\w+")
_ASKER = re.compile(
    r"\b(?:i|me|my|mine|myself|we|us|our|ours|je|j|moi|mon|ma|mes|nous|notre|nos|ich|mich|mir|mein\w*|wir|uns|unser\w*"
    r"|yo|mí|mi|mis|nosotr[oa]s|nuestr\w+|io|mio|miei|mie|noi|nostr\w+|eu|meus?|minhas?|ik|mijn|wij|onze?"
    r"|я|меня|мне|мо[йяеё]|мои|мы|нас|нам|наш\w*|أنا)\b|[我俺私僕]|(?:저|나|내|제)(?:는|가|의|를)",
    re.IGNORECASE,
)
"""Words by which a query speaks of the asker, in the languages that were thought of."""


class Match(Struct, frozen=True, kw_only=True):
    """An episode that the store found.

    Attributes:
        key: the store's key; empty for an episode that is not stored yet.
        created_at: Unix time in seconds.
        similarity: cosine of the query and the episode with its neighbours.
        own: cosine of the query and the episode alone; 0 until :func:`fill_own_cosines` fills it in.
        lexical: BM25 score of the query's words, neighbours included; no upper bound.
        vector: the episode's own embedding, packed (:func:`agents.memory.context.packed`).
        summary: id of the episode that sums it up; empty if none does.
    """

    episode_id: str
    turn_id: str
    session_id: str
    question: str
    answer: str
    created_at: float
    similarity: float
    own: float = 0.0
    lexical: float = 0.0
    speaker: str = ""
    source_id: str = ""
    vector: str | None = None
    summary: str = ""
    key: str = ""


class ScoredMatch(Struct, frozen=True, kw_only=True):
    """A match with its fused score and the components of that score.

    Attributes:
        words: the BM25 score as a share of the best one.
        recent: 1 for now, halved with every half-life.
        spoke: whether the query names the speaker.
        asks: whether the episode is a question without an answer.
        dated: whether the query names the date at which it was said.
        newer: id of the episode that supersedes it.
        corrects: ids of the episodes of which it replaces all or a part, directly or through others.
    """

    match: Match
    score: float
    words: float = 0.0
    recent: float = 0.0
    spoke: bool = False
    asks: bool = False
    dated: bool = False
    newer: str | None = None
    corrects: frozenset[str] = frozenset()

    @property
    def reasons(self) -> tuple[str, ...]:
        """The components of the score in words, for the client."""
        parts = [f"dense {self.match.similarity:.3f}", f"words {self.words:.3f}", f"recency {self.recent:.3f}"]
        if self.spoke:
            parts.append(f"speaker {self.match.speaker}")
        if self.asks:
            parts.append("asks only")
        if self.dated:
            parts.append("date")
        if self.newer is not None:
            parts.append(f"superseded by {self.newer}")
        if self.match.summary:
            parts.append(f"summed up in {self.match.summary}")
        return tuple(parts)


def fuse_scores(matches: Sequence[Match], *, text: str, now: float, settings: MemorySettings) -> list[ScoredMatch]:
    """All matches by fused score, descending; equal scores newest first."""
    best = max((match.lexical for match in matches), default=0.0)
    query_names = name_keys(text)
    spans = date_spans(text, now=now)
    candidates = [
        _score(match, best=best, query_names=query_names, spans=spans, now=now, settings=settings) for match in matches
    ]
    return sorted(candidates, key=_order)


def date_spans(text: str, *, now: float) -> tuple[Span, ...]:
    """When the episodes were said that the query's dates ask for: on that date or within :data:`TOLD_LATER`."""
    return tuple((start, end + TOLD_LATER) for start, end in resolve_dates(text, now=now))


def recency(age: float, *, half_life: float) -> float:
    """1 at age 0, halved every ``half_life`` seconds; a negative age counts as 0."""
    return math.exp2(-max(0.0, age) / half_life)


def fill_own_cosines(
    ranking: Sequence[ScoredMatch], vectors: Mapping[str, Vector], query_vector: Vector | None
) -> list[ScoredMatch]:
    """The ranking with the cosine of the query and each episode alone, where its vector (by episode id) is known."""
    if query_vector is None:
        return list(ranking)
    return [
        candidate
        if (vector := vectors.get(candidate.match.episode_id)) is None
        else replace(candidate, match=replace(candidate.match, own=float(vector @ query_vector)))
        for candidate in ranking
    ]


def demote_superseded(
    ranking: Sequence[ScoredMatch],
    vectors: Mapping[str, Vector],
    *,
    settings: MemorySettings,
    known: Mapping[str, str] = MappingProxyType({}),
) -> list[ScoredMatch]:
    """The ranking again, each episode behind all that supersede it, or that replace a part of what it says.

    ``known`` are replacements that the graph knows: ids of older episodes, each with the newer one's. Those with a
    vector (the own one, by episode id) are compared with each other as well.
    """
    corrections = list(_compare_all(ranking, vectors, settings))
    whole = {(newer.episode_id, older.episode_id) for newer, older in corrections if replaces(newer, older)}
    parts = {(newer.episode_id, older.episode_id) for newer, older in corrections}
    known_pairs = {(newer, older) for older, newer in known.items()}
    return put_newer_first(ranking, whole | known_pairs, parts=parts, settings=settings)


def _compare_all(
    ranking: Sequence[ScoredMatch], vectors: Mapping[str, Vector], settings: MemorySettings
) -> Iterator[tuple[Match, Match]]:
    """Which episodes replace others, or a part of them: the newer one first."""
    matches = [
        candidate.match
        for candidate in ranking
        if candidate.match.episode_id in vectors and any(read_claims(candidate.match.question))
    ]
    least = least_cosine(settings.embedder_in_force, settings.same_fact)
    if not matches or least >= 1.0:
        return
    rows = np.stack([vectors[match.episode_id] for match in matches])
    for first, second in np.argwhere(rows @ rows.T >= least).tolist():
        newer, older = matches[first], matches[second]
        if _follows(newer, older) and corrects(newer.question, older.question):
            yield newer, older


def put_newer_first(
    ranking: Sequence[ScoredMatch],
    pairs: Iterable[tuple[str, str]],
    *,
    settings: MemorySettings,
    parts: Iterable[tuple[str, str]] = (),
) -> list[ScoredMatch]:
    """The ranking with each newer episode at least where the best of those that it replaces stood, and these behind.

    ``pairs`` are ids, the newer one first; those of which one is not in the ranking, or that are not in the order of
    time, count nothing. An older episode loses ``superseded_weight`` and names the last that replaced it. Those of
    ``parts`` are replaced in part only: they just stand behind.
    """
    whole = set(pairs)
    by_id = {candidate.match.episode_id: candidate for candidate in ranking}
    newer_by_older: dict[str, set[str]] = {}
    for newer, older in whole.union(parts):
        if newer in by_id and older in by_id and _is_later(by_id[newer].match, by_id[older].match):
            newer_by_older.setdefault(older, set()).add(newer)
    if not newer_by_older:
        return sorted(ranking, key=_order)
    oldest_first = sorted(by_id.values(), key=_time_order)
    scores = {name: candidate.score for name, candidate in by_id.items()}
    corrections: dict[str, frozenset[str]] = dict.fromkeys(by_id, frozenset())
    for candidate in oldest_first:
        name = candidate.match.episode_id
        for newer in newer_by_older.get(name, ()):
            scores[newer] = max(scores[newer], scores[name])
            corrections[newer] |= {name} | corrections[name]
    last: dict[str, str] = {}
    for candidate in reversed(oldest_first):
        name = candidate.match.episode_id
        if followers := newer_by_older.get(name):
            if replacing := [follower for follower in followers if (follower, name) in whole]:
                newest = max(replacing, key=lambda follower: _time_order(by_id[follower]))
                last[name] = last.get(newest, newest)
                scores[name] -= settings.superseded_weight
            scores[name] = min(scores[name], *(scores[newer] for newer in followers))
    ranked = (
        replace(candidate, score=scores[name], newer=last.get(name), corrects=corrections[name])
        for candidate in ranking
        for name in (candidate.match.episode_id,)
    )
    return sorted(ranked, key=_order)


def keep_relevant(
    ranking: Iterable[ScoredMatch], *, text: str, words: WordEncoder, settings: MemorySettings, session_id: str = ""
) -> Iterator[ScoredMatch]:
    """The matches above the floor: close to the query in meaning, or with enough of its words.

    Closeness in a language that the embedder was not trained for counts only together with a word of the query. A query
    that speaks neither of the asker nor of a speaker is a question about the world: episodes of other conversations
    than ``session_id`` must come nearer to it, unless they have a name that it mentions; what the assistant answered
    to a mere question is none of them. A query of small talk finds nothing, and an episode whose question is small talk
    is not found. What corrects a match above the floor comes with it.
    """
    if is_small_talk(text):
        return
    candidates = list(ranking)
    query_words = words.query_words(text)
    needs_word = text_language(split_words(text)) not in settings.floor_languages
    matches = {candidate.match.episode_id: candidate.match for candidate in candidates}
    names = {word for word in _NAME.findall(text)[1:] if word[0].isupper() and not word.isupper()}
    is_personal = _ASKER.search(text) is not None or asks_for_words(text) or any(entry.spoke for entry in candidates)

    def is_relevant(match: Match) -> bool:
        if is_small_talk(match.question) or (needs_word and match.lexical <= 0.0):
            return False
        is_near = is_personal or match.session_id == session_id or _mentions(match, names)
        return (_passes if is_near else _passes_impersonal)(match, query_words, words, settings)

    for candidate in candidates:
        corrected = () if candidate.newer else (matches[name] for name in candidate.corrects if name in matches)
        if any(is_relevant(match) for match in (candidate.match, *corrected)):
            yield candidate


def drop_duplicates(ranking: Iterable[ScoredMatch]) -> Iterator[ScoredMatch]:
    """The first of the matches that have the same texts; case and white space do not count."""
    seen: set[tuple[str, str]] = set()
    for candidate in ranking:
        texts = (normalised(candidate.match.question), normalised(candidate.match.answer))
        if texts not in seen:
            seen.add(texts)
            yield candidate


def hits(ranking: Iterable[ScoredMatch]) -> Iterator[RecalledEpisode]:
    """The matches as the wire carries them."""
    return (_hit(candidate) for candidate in ranking)


def recalled_episode(
    match: Match, *, score: float = 0.0, reasons: tuple[str, ...] = (), superseded_by: str = ""
) -> RecalledEpisode:
    """An episode as the wire carries it."""
    return RecalledEpisode(
        episode_id=match.episode_id,
        turn_id=match.turn_id,
        question=match.question,
        answer=match.answer,
        score=score,
        reasons=reasons,
        created_at=match.created_at,
        session_id=match.session_id,
        speaker=match.speaker,
        source_id=match.source_id,
        superseded_by=superseded_by,
    )


def fit_budget(
    candidates: Iterable[RecalledEpisode], *, settings: MemorySettings, measure: Measure = len
) -> tuple[RecalledEpisode, ...]:
    """The best hits within the budget, long texts cut; a hit that does not fit is skipped for smaller ones behind
    it."""
    room = settings.token_budget
    best_hits: list[RecalledEpisode] = []
    for hit in candidates:
        short_hit = _shorten_hit(hit, settings.hit_characters)
        if (size := measure(short_hit.question) + measure(short_hit.answer)) <= room:
            room -= size
            best_hits.append(short_hit)
            if len(best_hits) == settings.max_hits:
                break
    return tuple(best_hits)


def _score(
    match: Match,
    *,
    best: float,
    query_names: Set[int],
    spans: Sequence[Span],
    now: float,
    settings: MemorySettings,
) -> ScoredMatch:
    recent = recency(now - match.created_at, half_life=settings.recency_half_life)
    words = match.lexical / best if best > 0.0 else 0.0
    spoke = match.speaker not in ROLES and not query_names.isdisjoint(name_keys(match.speaker))
    asks = not match.answer and match.question.rstrip().endswith(QUESTION_MARKS)
    dated = any(start <= match.created_at < end for start, end in spans)
    score = match.similarity + settings.lexical_weight * words + settings.recency_weight * recent
    score += settings.speaker_weight * spoke - settings.question_weight * asks + settings.date_weight * dated
    score -= settings.summarised_weight * bool(match.summary)
    return ScoredMatch(match=match, score=score, words=words, recent=recent, spoke=spoke, asks=asks, dated=dated)


def _order(candidate: ScoredMatch) -> tuple[float, float, str]:
    return (-candidate.score, -candidate.match.created_at, candidate.match.episode_id)


def replaces(newer: Match, older: Match) -> bool:
    """Whether ``newer`` is later, by the same speaker, and says something new of all that ``older`` speaks of."""
    return _follows(newer, older) and says_otherwise(newer.question, older.question)


def _follows(newer: Match, older: Match) -> bool:
    """Whether ``newer`` is later, by the same speaker."""
    return _is_later(newer, older) and _speaker(newer) == _speaker(older)


def _is_later(newer: Match, older: Match) -> bool:
    return newer.created_at - older.created_at > SAME_MOMENT


def _speaker(match: Match) -> str:
    """Who speaks: what is asked in a turn and what is imported of the "user" have one speaker."""
    return "" if match.speaker == "user" else match.speaker


def _time_order(candidate: ScoredMatch) -> tuple[float, str]:
    return (candidate.match.created_at, candidate.match.episode_id)


def _passes(match: Match, query_words: tuple[int, ...], words: WordEncoder, settings: MemorySettings) -> bool:
    if max(match.own, match.similarity) >= settings.relevance_floor:
        return True
    return _shares_words(match, query_words, words, settings, least=settings.floor_words)


def _mentions(match: Match, names: Set[str]) -> bool:
    return not names.isdisjoint(_NAME.findall(f"{match.question}\n{match.answer}"))


def _passes_impersonal(
    match: Match, query_words: tuple[int, ...], words: WordEncoder, settings: MemorySettings
) -> bool:
    if match.answer and not says_something(match.question):
        return False
    if match.own >= settings.impersonal_floor:
        share = coverage(query_words, words.counts(f"{match.question}\n{match.answer}"))
        return len(query_words) < settings.floor_words or share >= settings.impersonal_coverage
    return _shares_words(match, query_words, words, settings, least=settings.floor_words + 1)


def _shares_words(
    match: Match, query_words: tuple[int, ...], words: WordEncoder, settings: MemorySettings, *, least: int
) -> bool:
    """Whether the episode has ``floor_coverage`` of the query's words, and ``least`` of them."""
    if match.lexical <= 0.0:
        return False
    share = coverage(query_words, words.counts(f"{match.question}\n{match.answer}"))
    return share >= settings.floor_coverage and round(share * len(query_words)) >= least


def _hit(candidate: ScoredMatch) -> RecalledEpisode:
    return recalled_episode(
        candidate.match, score=candidate.score, reasons=candidate.reasons, superseded_by=candidate.newer or ""
    )


def _shorten_hit(hit: RecalledEpisode, limit: int) -> RecalledEpisode:
    if len(hit.question) <= limit and len(hit.answer) <= limit:
        return hit
    return replace(
        hit,
        question=shortened(hit.question, limit),
        answer=shortened(hit.answer, limit),
        reasons=(*hit.reasons, "shortened"),
    )


def normalised(text: str) -> str:
    return " ".join(text.casefold().split())
