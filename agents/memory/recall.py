"""Which episodes a turn is shown: a relevance floor, similarity fused with recency, distinct texts, a budget."""

import math
from collections.abc import Iterable, Sequence

from msgspec import Struct

from agents.excerpt import shortened
from agents.memory.settings import MemorySettings
from schemas.stages import RecalledEpisode


class Match(Struct, frozen=True, kw_only=True):
    """An episode that the vector store found. ``similarity`` is a cosine; ``created_at`` Unix time in seconds."""

    episode_id: str
    turn_id: str
    session_id: str
    question: str
    answer: str
    created_at: float
    similarity: float


def recall(
    matches: Iterable[Match], *, turn_id: str, now: float, settings: MemorySettings
) -> tuple[RecalledEpisode, ...]:
    """What the turn ``turn_id`` is shown, best first: never the turn itself, never below the floor."""
    relevant = [match for match in matches if match.turn_id != turn_id and match.similarity >= settings.relevance_floor]
    return fitting(distinct(ranked(relevant, now=now, settings=settings)), settings=settings)


def ranked(matches: Iterable[Match], *, now: float, settings: MemorySettings) -> list[RecalledEpisode]:
    """All matches by fused score, descending; equal scores newest first."""
    hits = [_scored(match, now, settings) for match in matches]
    return sorted(hits, key=lambda hit: (-hit.score, -hit.created_at, hit.episode_id))


def recency(age: float, *, half_life: float) -> float:
    """1 for what happened now, halved every ``half_life`` seconds; what lies in the future counts as now."""
    return math.exp2(-max(0.0, age) / half_life)


def _scored(match: Match, now: float, settings: MemorySettings) -> RecalledEpisode:
    recent = recency(now - match.created_at, half_life=settings.recency_half_life)
    weight = settings.recency_weight
    return RecalledEpisode(
        episode_id=match.episode_id,
        turn_id=match.turn_id,
        question=match.question,
        answer=match.answer,
        score=(1.0 - weight) * match.similarity + weight * recent,
        reasons=(f"dense {match.similarity:.3f}", f"recency {recent:.3f}"),
        created_at=match.created_at,
    )


def distinct(hits: Iterable[RecalledEpisode]) -> list[RecalledEpisode]:
    """The first of all hits that say the same; case and white space do not count."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for hit in hits:
        text = (_normal(hit.question), _normal(hit.answer))
        if text not in seen:
            seen.add(text)
            kept.append(hit)
    return kept


def fitting(hits: Sequence[RecalledEpisode], *, settings: MemorySettings) -> tuple[RecalledEpisode, ...]:
    """The best hits within the budget, long texts cut; one that does not fit makes room for smaller ones."""
    room = settings.character_budget
    kept: list[RecalledEpisode] = []
    for hit in hits:
        if len(kept) == settings.max_hits:
            break
        cut = _cut(hit, settings.hit_characters)
        if (size := len(cut.question) + len(cut.answer)) <= room:
            room -= size
            kept.append(cut)
    return tuple(kept)


def _cut(hit: RecalledEpisode, limit: int) -> RecalledEpisode:
    if len(hit.question) <= limit and len(hit.answer) <= limit:
        return hit
    return RecalledEpisode(
        episode_id=hit.episode_id,
        turn_id=hit.turn_id,
        question=shortened(hit.question, limit),
        answer=shortened(hit.answer, limit),
        score=hit.score,
        reasons=(*hit.reasons, "shortened"),
        created_at=hit.created_at,
    )


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())
