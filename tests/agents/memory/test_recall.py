"""What a turn is shown: floor, fusion, distinct texts, budget."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.memory.recall import Match, distinct, ranked, recall, recency
from agents.memory.settings import MemorySettings
from schemas.stages import RecalledEpisode

NOW = 1_000_000.0
SETTINGS = MemorySettings(data_dir=Path("nowhere"))


def match(
    turn: str = "t1", *, similarity: float = 0.8, age: float = 0.0, question: str = "q", answer: str = "a"
) -> Match:
    return Match(
        episode_id=f"e-{turn}",
        turn_id=turn,
        session_id="s",
        question=question,
        answer=answer,
        created_at=NOW - age,
        similarity=similarity,
    )


matches = st.lists(
    st.builds(
        match,
        st.sampled_from([f"t{number}" for number in range(9)]),
        similarity=st.floats(-1.0, 1.0),
        age=st.floats(-1e5, 1e7),
        question=st.text(max_size=900),
        answer=st.sampled_from(["yes", "YES ", "no", "x" * 700]),
    ),
    max_size=20,
)


@given(matches, st.floats(0.0, 1.0), st.integers(1, 6), st.integers(0, 3000))
def test_never_the_turn_itself_nor_below_the_floor_nor_over_the_budget(
    found: list[Match], floor: float, most: int, budget: int
) -> None:
    settings = msgspec.structs.replace(SETTINGS, relevance_floor=floor, max_hits=most, character_budget=budget)
    hits = recall(found, turn_id="t3", now=NOW, settings=settings)
    allowed = {m.episode_id for m in found if m.turn_id != "t3" and m.similarity >= floor}
    assert {hit.episode_id for hit in hits} <= allowed
    assert len(hits) <= most
    assert sum(len(hit.question) + len(hit.answer) for hit in hits) <= budget
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.reasons for hit in hits)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 1e7))
def test_of_two_equally_old_episodes_the_more_similar_leads(one: float, other: float, age: float) -> None:
    hits = ranked(
        [match("a", similarity=one, age=age), match("b", similarity=other, age=age)], now=NOW, settings=SETTINGS
    )
    if one > other:
        assert hits[0].score >= hits[1].score
        assert hits[0].turn_id == "a" or hits[0].score == hits[1].score


def test_of_two_equally_similar_episodes_the_newer_leads() -> None:
    hits = ranked([match("old", age=9e6), match("new", age=60.0)], now=NOW, settings=SETTINGS)
    assert [hit.turn_id for hit in hits] == ["new", "old"]


def test_recency_cannot_lift_what_is_irrelevant() -> None:
    assert recall([match(similarity=0.39, age=0.0)], turn_id="now", now=NOW, settings=SETTINGS) == ()
    assert len(recall([match(similarity=0.41, age=9e7)], turn_id="now", now=NOW, settings=SETTINGS)) == 1


@given(st.floats(-1e6, 1e9), st.floats(1.0, 1e8))
def test_recency_is_a_share_that_halves(age: float, half_life: float) -> None:
    assert 0.0 <= recency(age, half_life=half_life) <= 1.0
    assert recency(half_life, half_life=half_life) == pytest.approx(0.5)


def test_the_same_text_is_shown_once_in_its_best_place() -> None:
    said = [
        match("a", similarity=0.7, question="Where is Paris?", answer="In France."),
        match("b", similarity=0.9, question="where  is PARIS?", answer=" in france. "),
        match("c", similarity=0.6, question="Where is Paris?", answer="In Texas."),
    ]
    hits = distinct(ranked(said, now=NOW, settings=SETTINGS))
    assert [hit.turn_id for hit in hits] == ["b", "c"]


def test_a_long_text_is_cut_and_says_so() -> None:
    (hit,) = recall([match(answer="x" * 5000)], turn_id="now", now=NOW, settings=SETTINGS)
    assert len(hit.answer) <= SETTINGS.hit_characters
    assert "shortened" in hit.reasons
    assert isinstance(hit, RecalledEpisode)


def test_a_hit_that_does_not_fit_makes_room_for_a_smaller_one() -> None:
    settings = msgspec.structs.replace(SETTINGS, character_budget=100)
    found = [match("big", similarity=0.9, answer="x" * 400), match("small", similarity=0.8)]
    assert [hit.turn_id for hit in recall(found, turn_id="now", now=NOW, settings=settings)] == ["small"]
