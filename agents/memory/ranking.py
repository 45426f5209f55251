"""Which episodes a turn is shown: cosine, words, speaker and recency fused; a floor, distinct texts, a budget.

The fusion adds the cosine, which has a scale of its own, and the BM25 score divided by the best one, which has none.
It was chosen by measurement (``kiki bench locomo``) over added z-scores and reciprocal ranks; see docs/memory.md.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from agents.memory.context import Vector
from agents.memory.settings import MemorySettings
from agents.memory.smalltalk import is_small_talk
from agents.memory.words import Words, covered
from agents.shared.excerpt import shortened
from schemas.findings import RecalledEpisode

ROLES = frozenset({"", "user", "assistant", "system", "tool"})
"""Speakers that are no names."""

SAME_MOMENT = 1e-6
"""Seconds apart at which two episodes are of one time: qdrant-edge gives some floats back with another last bit."""

Measure = Callable[[str], int]
"""The length of a text in the budget's unit."""

_NAME = re.compile(r"\w+")


class Match(Struct, frozen=True, kw_only=True):
    """An episode that the store found.

    Attributes:
        created_at: Unix time in seconds.
        similarity: cosine of the query and the episode with its neighbours.
        own: cosine of the query and the episode alone; 0 until :func:`compared` fills it in.
        lexical: BM25 score of the query's words, neighbours included; no upper bound.
        vector: the episode's own embedding, packed (:func:`agents.memory.context.packed`).
        summary: the episode that sums it up, if one does.
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


class Scored(Struct, frozen=True, kw_only=True):
    """A match with its fused score and what that is made of.

    Attributes:
        words: the BM25 score as a share of the best one.
        recent: 1 for now, halved with every half-life.
        spoke: the query names who said it.
        asks: it only asks.
        newer: the episode that supersedes it.
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
        """Why it came, and why not higher."""
        told = [f"dense {self.match.similarity:.3f}", f"words {self.words:.3f}", f"recency {self.recent:.3f}"]
        if self.spoke:
            told.append(f"speaker {self.match.speaker}")
        if self.asks:
            told.append("asks only")
        if self.newer is not None:
            told.append(f"superseded by {self.newer}")
        if self.match.summary:
            told.append(f"summed up in {self.match.summary}")
        return tuple(told)


def fused(matches: Sequence[Match], *, text: str, now: float, settings: MemorySettings) -> list[Scored]:
    """All matches by fused score, descending; equal scores newest first."""
    best = max((match.lexical for match in matches), default=0.0)
    named = {word.casefold() for word in _NAME.findall(text)}
    scored = [_scored(match, best=best, named=named, now=now, settings=settings) for match in matches]
    return sorted(scored, key=_order)


def recency(age: float, *, half_life: float) -> float:
    """1 for what happened now, halved every ``half_life`` seconds; what lies in the future counts as now."""
    return math.exp2(-max(0.0, age) / half_life)


def compared(ranked: Sequence[Scored], vectors: Mapping[str, Vector], asked: Vector | None) -> list[Scored]:
    """The same with the cosine of the query and each episode alone, where its vector (by episode id) is known."""
    if asked is None:
        return list(ranked)
    return [
        one
        if (vector := vectors.get(one.match.episode_id)) is None
        else replace(one, match=replace(one.match, own=float(vector @ asked)))
        for one in ranked
    ]


def superseded(ranked: Sequence[Scored], vectors: Mapping[str, Vector], *, settings: MemorySettings) -> list[Scored]:
    """The same in a new order: of two that speak of the same thing, the older loses to the newer.

    Two speak of the same thing when their own vectors (by episode id) are at least ``same_fact`` alike, one speaker
    said both, and the texts differ; an episode without a vector here keeps its place.
    """
    known = [one.match for one in ranked if one.match.episode_id in vectors]
    if not known:
        return list(ranked)
    rows = np.stack([vectors[match.episode_id] for match in known])
    lost: dict[str, Match] = {}
    for first, second in np.argwhere(rows @ rows.T >= settings.same_fact).tolist():
        older, newer = known[first], known[second]
        if replaces(newer, older):
            lost[older.episode_id] = newer
    return sorted((_lost(one, lost.get(one.match.episode_id), settings) for one in ranked), key=_order)


def relevant(ranked: Iterable[Scored], *, text: str, words: Words, settings: MemorySettings) -> Iterator[Scored]:
    """Those above the floor: alike in meaning, or with enough of the query's words; looked at when it is their turn.

    Small talk finds nothing, and an exchange that began as small talk is not found.
    """
    if is_small_talk(text):
        return
    asked = words.asked(text)
    yield from (one for one in ranked if _passes(one.match, asked, words, settings))


def distinct(ranked: Iterable[Scored]) -> Iterator[Scored]:
    """The first of all that say the same; case and white space do not count."""
    seen: set[tuple[str, str]] = set()
    for one in ranked:
        said = (_normal(one.match.question), _normal(one.match.answer))
        if said not in seen:
            seen.add(said)
            yield one


def hits(ranked: Iterable[Scored]) -> Iterator[RecalledEpisode]:
    """As the wire carries them."""
    return (_hit(one) for one in ranked)


def told(match: Match, *, score: float = 0.0, reasons: tuple[str, ...] = ()) -> RecalledEpisode:
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
    )


def fitting(
    found: Iterable[RecalledEpisode], *, settings: MemorySettings, measure: Measure = len
) -> tuple[RecalledEpisode, ...]:
    """The best hits within the budget, long texts cut; one that does not fit makes room for smaller ones."""
    room = settings.token_budget
    kept: list[RecalledEpisode] = []
    for hit in found:
        cut = _cut(hit, settings.hit_characters)
        if (size := measure(cut.question) + measure(cut.answer)) <= room:
            room -= size
            kept.append(cut)
            if len(kept) == settings.max_hits:
                break
    return tuple(kept)


def _scored(match: Match, *, best: float, named: set[str], now: float, settings: MemorySettings) -> Scored:
    recent = recency(now - match.created_at, half_life=settings.recency_half_life)
    words = match.lexical / best if best > 0.0 else 0.0
    spoke = match.speaker not in ROLES and any(part.casefold() in named for part in _NAME.findall(match.speaker))
    asks = not match.answer and match.question.rstrip().endswith("?")
    score = match.similarity + settings.lexical_weight * words + settings.recency_weight * recent
    score += settings.speaker_weight * spoke - settings.question_weight * asks
    score -= settings.summarised_weight * bool(match.summary)
    return Scored(match=match, score=score, words=words, recent=recent, spoke=spoke, asks=asks)


def _order(one: Scored) -> tuple[float, float, str]:
    return (-one.score, -one.match.created_at, one.match.episode_id)


def replaces(newer: Match, older: Match) -> bool:
    """Whether one that is alike came later and says something else, in the same voice."""
    if newer.created_at - older.created_at <= SAME_MOMENT or older.speaker != newer.speaker:
        return False
    return (_normal(older.question), _normal(older.answer)) != (_normal(newer.question), _normal(newer.answer))


def _lost(one: Scored, newer: Match | None, settings: MemorySettings) -> Scored:
    if newer is None:
        return one
    return replace(one, score=one.score - settings.superseded_weight, newer=newer.episode_id)


def _passes(match: Match, asked: tuple[int, ...], words: Words, settings: MemorySettings) -> bool:
    if is_small_talk(match.question):
        return False
    if max(match.own, match.similarity) >= settings.relevance_floor:
        return True
    if len(asked) < settings.floor_words or match.lexical <= 0.0:
        return False
    return covered(asked, words.counts(f"{match.question}\n{match.answer}")) >= settings.floor_coverage


def _hit(one: Scored) -> RecalledEpisode:
    return told(one.match, score=one.score, reasons=one.reasons)


def _cut(hit: RecalledEpisode, limit: int) -> RecalledEpisode:
    if len(hit.question) <= limit and len(hit.answer) <= limit:
        return hit
    return replace(
        hit,
        question=shortened(hit.question, limit),
        answer=shortened(hit.answer, limit),
        reasons=(*hit.reasons, "shortened"),
    )


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())
