"""Chooses the episodes for a turn: fuses cosine, words, speaker and recency; applies floor, duplicates and budget.

The cosine is added as it is. BM25 has no fixed scale, so each score is divided by the best one before it is added.
This was measured (``kiki bench locomo``) to be better than z-scores or reciprocal ranks; see docs/memory.md.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from agents.memory.asks import asks_for_words, says_something
from agents.memory.context import Vector
from agents.memory.settings import MemorySettings
from agents.memory.smalltalk import is_small_talk
from agents.memory.words import WordEncoder, coverage
from agents.shared.excerpt import shortened
from schemas.findings import RecalledEpisode

ROLES = frozenset({"", "user", "assistant", "system", "tool"})
"""Values of ``speaker`` that are roles and not names."""

SAME_MOMENT = 1e-6
"""Two episodes at most so many seconds apart count as simultaneous: qdrant-edge changes the last bit of some floats."""

Measure = Callable[[str], int]
"""Gives the length of a text in the budget's unit."""

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


class ScoredMatch(Struct, frozen=True, kw_only=True):
    """A match with its fused score and the components of that score.

    Attributes:
        words: the BM25 score as a share of the best one.
        recent: 1 for now, halved with every half-life.
        spoke: whether the query names the speaker.
        asks: whether the episode is a question without an answer.
        newer: id of the episode that supersedes it.
    """

    match: Match
    score: float
    words: float = 0.0
    recent: float = 0.0
    spoke: bool = False
    asks: bool = False
    newer: str | None = None

    @property
    def reasons(self) -> tuple[str, ...]:
        """The components of the score in words, for the client."""
        parts = [f"dense {self.match.similarity:.3f}", f"words {self.words:.3f}", f"recency {self.recent:.3f}"]
        if self.spoke:
            parts.append(f"speaker {self.match.speaker}")
        if self.asks:
            parts.append("asks only")
        if self.newer is not None:
            parts.append(f"superseded by {self.newer}")
        if self.match.summary:
            parts.append(f"summed up in {self.match.summary}")
        return tuple(parts)


def fuse_scores(matches: Sequence[Match], *, text: str, now: float, settings: MemorySettings) -> list[ScoredMatch]:
    """All matches by fused score, descending; equal scores newest first."""
    best = max((match.lexical for match in matches), default=0.0)
    query_words = {word.casefold() for word in _NAME.findall(text)}
    candidates = [_score(match, best=best, query_words=query_words, now=now, settings=settings) for match in matches]
    return sorted(candidates, key=_order)


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
    ranking: Sequence[ScoredMatch], vectors: Mapping[str, Vector], *, settings: MemorySettings
) -> list[ScoredMatch]:
    """The ranking again, with a lower score for the older of two episodes that speak of the same thing.

    Two speak of the same thing when the cosine of their own vectors (by episode id) is at least ``same_fact``, the
    speaker is the same and the texts differ. An episode without a vector here keeps its score.
    """
    matches = [candidate.match for candidate in ranking if candidate.match.episode_id in vectors]
    if not matches:
        return list(ranking)
    rows = np.stack([vectors[match.episode_id] for match in matches])
    replacements: dict[str, Match] = {}
    for first, second in np.argwhere(rows @ rows.T >= settings.same_fact).tolist():
        older, newer = matches[first], matches[second]
        if replaces(newer, older):
            replacements[older.episode_id] = newer
    return sorted(
        (_demote(candidate, replacements.get(candidate.match.episode_id), settings) for candidate in ranking),
        key=_order,
    )


def keep_relevant(
    ranking: Iterable[ScoredMatch], *, text: str, words: WordEncoder, settings: MemorySettings, session_id: str = ""
) -> Iterator[ScoredMatch]:
    """The matches above the floor: close to the query in meaning, or with enough of its words.

    A query that speaks neither of the asker nor of a speaker is a question about the world: episodes of other
    conversations than ``session_id`` must come nearer to it, unless they have a name that it mentions, and what the
    assistant answered to a mere question is none of them. A query of small talk finds nothing, and an episode whose
    question is small talk is not found.
    """
    if is_small_talk(text):
        return
    candidates = list(ranking)
    query_words = words.query_words(text)
    names = {word for word in _NAME.findall(text)[1:] if word[0].isupper() and not word.isupper()}
    is_personal = _ASKER.search(text) is not None or asks_for_words(text) or any(entry.spoke for entry in candidates)
    for candidate in candidates:
        match = candidate.match
        is_near = is_personal or match.session_id == session_id or _mentions(match, names)
        passes = _passes if is_near else _passes_impersonal
        if not is_small_talk(match.question) and passes(match, query_words, words, settings):
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


def _score(match: Match, *, best: float, query_words: set[str], now: float, settings: MemorySettings) -> ScoredMatch:
    recent = recency(now - match.created_at, half_life=settings.recency_half_life)
    words = match.lexical / best if best > 0.0 else 0.0
    spoke = match.speaker not in ROLES and any(part.casefold() in query_words for part in _NAME.findall(match.speaker))
    asks = not match.answer and match.question.rstrip().endswith("?")
    score = match.similarity + settings.lexical_weight * words + settings.recency_weight * recent
    score += settings.speaker_weight * spoke - settings.question_weight * asks
    score -= settings.summarised_weight * bool(match.summary)
    return ScoredMatch(match=match, score=score, words=words, recent=recent, spoke=spoke, asks=asks)


def _order(candidate: ScoredMatch) -> tuple[float, float, str]:
    return (-candidate.score, -candidate.match.created_at, candidate.match.episode_id)


def replaces(newer: Match, older: Match) -> bool:
    """Whether, of two similar episodes, ``newer`` is later, by the same speaker, and has another text."""
    if newer.created_at - older.created_at <= SAME_MOMENT or older.speaker != newer.speaker:
        return False
    return (normalised(older.question), normalised(older.answer)) != (
        normalised(newer.question),
        normalised(newer.answer),
    )


def _demote(candidate: ScoredMatch, newer: Match | None, settings: MemorySettings) -> ScoredMatch:
    if newer is None:
        return candidate
    return replace(candidate, score=candidate.score - settings.superseded_weight, newer=newer.episode_id)


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
