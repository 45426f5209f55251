"""From scores to a route: the gate, the adapters with their weights, and the plan. Pure functions."""

from collections.abc import Collection, Mapping, Sequence

from agents.router.aliases import Alias
from schemas.findings import MAX_ADAPTERS, AdapterUse, DomainScore, Level, Plan, Query

DIGITS = 4
"""Decimals of the scores in events and replies."""


def select_outputs(
    scores: Mapping[str, float],
    *,
    threshold: float,
    top_k: int,
    allowed: Collection[str] = (),
) -> tuple[DomainScore, ...]:
    """The outputs whose score reaches ``threshold``, best first, at most ``top_k``; none: the base model answers.

    ``allowed`` names the outputs that may be chosen; empty means all.
    """
    passing = [
        (name, score) for name, score in scores.items() if score >= threshold and (not allowed or name in allowed)
    ]
    passing.sort(key=lambda pair: (-pair[1], pair[0]))
    return tuple(DomainScore(name=name, score=round(score, DIGITS)) for name, score in passing[:top_k])


def niche_of(shares: Mapping[str, float], *, allowed: Collection[str] = ()) -> str:
    """The likeliest niche domain of a merged output, among ``allowed`` when that names any of them."""
    names = [name for name in shares if name in allowed] or list(shares)
    return min(names, key=lambda name: (-shares[name], name))


def adapters_of(
    niches: Sequence[tuple[str, float]],
    *,
    base_domains: Collection[str],
    min_share: float,
    limit: int = MAX_ADAPTERS,
    scale: float = 1.0,
) -> tuple[AdapterUse, ...]:
    """The adapters of the chosen niche domains, which are given as ``(name, calibrated score)``, best first.

    A domain takes part when its score is at least ``min_share`` of the best score. Its weight is its score over the sum
    of the scores that take part. A domain of ``base_domains`` gives no adapter: its weight stays with the base model,
    and the other weights do not grow. ``scale`` is the scale of all; with 0 there are none.
    """
    if not niches or not scale:
        return ()
    parts = [niche for niche in niches if niche[1] >= min_share * niches[0][1]][:limit]
    total = sum(score for _, score in parts)
    if total <= 0.0:
        return ()
    return tuple(
        AdapterUse(name=name, weight=round(score / total, DIGITS), scale=scale)
        for name, score in parts
        if name not in base_domains
    )


def level_of(
    alias: Alias, request_level: Level | None, *, first: str | None, cognition_domains: Collection[str]
) -> Level:
    """The turn's level: the request's, or else the alias's.

    An alias may ask to deepen (``deepen``): then a fast turn becomes full when ``first``, the niche domain with the
    best score, is one of ``cognition_domains``.
    """
    if request_level is not None:
        return request_level
    if alias.deepen and alias.level == "fast" and first in cognition_domains:
        return "full"
    return alias.level


def plan_of(alias: Alias, query: Query, *, level: Level, costly: bool = False) -> Plan:
    """Which stages do their work. One candidate, unless the turn is full or the request asks for more.

    ``costly``: whether a wrong answer is costly in the first domain.
    """
    full = level == "full"
    return Plan(
        level=level,
        candidates=query.candidates or (alias.candidates if full else 1),
        stakes="high" if costly else "low",
        recall=level != "raw" and alias.recall,
        live_tokens=not full,
        dissent=full,
        negotiate=full,
        antibias=full,
        record=level != "raw",
        thinking=alias.thinking if query.thinking is None else query.thinking,
    )
