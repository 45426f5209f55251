"""The labelled pairs of superseding, and how verdicts on them are counted."""

from collections import Counter

import pytest

from agents.memory.context import unit
from runtime.bench.harness import read_data
from runtime.bench.memory.superseding import (
    COSINE,
    RULE,
    StatementPair,
    best_threshold,
    count_verdicts,
    judge_pairs,
)

PAIRS = read_data("superseding", StatementPair)


def test_the_pairs_are_many_of_each_half_language_and_label() -> None:
    assert len(PAIRS) >= 200
    assert len({(pair.older, pair.newer) for pair in PAIRS}) == len(PAIRS)
    parts = Counter((pair.half, pair.language, pair.replaced) for pair in PAIRS)
    assert len(parts) == 8
    assert min(parts.values()) >= 25


def test_no_pair_of_the_held_out_half_is_in_the_other() -> None:
    halves = {half: {(p.older, p.newer) for p in PAIRS if p.half == half} for half in ("development", "held-out")}
    assert halves["development"].isdisjoint(halves["held-out"])


def pair(older: str, newer: str, *, replaced: bool, half: str = "development") -> StatementPair:
    return StatementPair(half=half, language="en", kind="x", older=older, newer=newer, replaced=replaced)  # type: ignore[arg-type]


def test_verdicts_are_counted_by_rule() -> None:
    son, daughter = "My son is allergic to peanuts.", "My daughter is allergic to peanuts."
    pairs = [
        pair("I live in Beijing.", "I moved to Shanghai.", replaced=True),
        pair(son, daughter, replaced=False),
        pair("My garden is a joy.", "My garden is a burden.", replaced=True),
    ]
    places = {"I live in Beijing.": 0.0, "I moved to Shanghai.": 1.0, son: 0.0, daughter: 0.1,
              "My garden is a joy.": 0.0, "My garden is a burden.": 0.3}  # fmt: skip
    verdicts, threshold = judge_pairs(
        pairs, {text: unit([1.0, lean]) for text, lean in places.items()}, embedder="all-mpnet-base-v2"
    )
    claims, cosine = count_verdicts(verdicts, RULE), count_verdicts(verdicts, COSINE)
    assert (claims.right, claims.wrong, claims.missed) == (1, 0, 1)
    assert (claims.precision, claims.recall) == (1.0, 0.5)
    assert threshold == pytest.approx(0.5**0.5)
    assert (cosine.right, cosine.wrong, cosine.missed) == (2, 1, 0)
    assert cosine.precision == pytest.approx(2 / 3)


def test_the_best_threshold_parts_what_can_be_parted() -> None:
    assert best_threshold([(0.9, True), (0.8, True), (0.7, False)]) == 0.8
