"""What a turn is shown: fusion, floor, superseding, distinct texts, budget."""

import math
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.memory.context import Vector, unit
from agents.memory.ranking import (
    Match,
    demote_superseded,
    drop_duplicates,
    fill_own_cosines,
    fit_budget,
    fuse_scores,
    hits,
    keep_relevant,
    recency,
)
from agents.memory.settings import MemorySettings
from agents.memory.text.words import WordEncoder

NOW = 1_000_000.0
SETTINGS = MemorySettings(router_embedder="all-mpnet-base-v2", data_dir=Path("nowhere"))
CLOSENESS_COUNTS = msgspec.structs.replace(
    SETTINGS, floor_languages=("english", "french", "german", "italian", "other")
)
"""The embedder is taken to know these languages, so that no word must be shared."""

WORDS = WordEncoder()


def match(
    turn: str = "t1",
    *,
    similarity: float = 0.8,
    lexical: float = 0.0,
    age: float = 0.0,
    question: str = "q",
    answer: str = "a",
    speaker: str = "",
) -> Match:
    return Match(
        episode_id=f"e-{turn}",
        turn_id=turn,
        session_id="s",
        question=question,
        answer=answer,
        created_at=NOW - age,
        similarity=similarity,
        own=similarity,
        lexical=lexical,
        speaker=speaker,
    )


def order(*candidates: Match, text: str = "what?") -> list[str]:
    return [candidate.match.turn_id for candidate in fuse_scores(candidates, text=text, now=NOW, settings=SETTINGS)]


matches = st.lists(
    st.builds(
        match,
        st.sampled_from([f"t{number}" for number in range(9)]),
        similarity=st.floats(-1.0, 1.0),
        lexical=st.floats(0.0, 50.0),
        age=st.floats(-1e5, 1e7),
        question=st.text(max_size=900),
        answer=st.sampled_from(["yes", "YES ", "no", "x" * 700]),
    ),
    max_size=20,
)


@given(matches, st.floats(0.0, 1.0), st.integers(1, 6), st.integers(0, 3000))
def test_hits_are_never_below_the_floor_nor_over_the_budget(
    candidates: list[Match], floor: float, most: int, budget: int
) -> None:
    settings = msgspec.structs.replace(
        SETTINGS, relevance_floor=floor, max_hits=most, token_budget=budget, floor_coverage=2.0
    )
    ranking = drop_duplicates(
        keep_relevant(
            fuse_scores(candidates, text="cat", now=NOW, settings=settings),
            text="cat",
            words=WORDS,
            settings=settings,
            session_id="s",
        )
    )
    best_hits = fit_budget(hits(ranking), settings=settings)
    assert {hit.episode_id for hit in best_hits} <= {m.episode_id for m in candidates if m.similarity >= floor}
    assert len(best_hits) <= most
    assert sum(len(hit.question) + len(hit.answer) for hit in best_hits) <= budget
    assert [hit.score for hit in best_hits] == sorted((hit.score for hit in best_hits), reverse=True)
    assert all(hit.reasons for hit in best_hits)


@given(matches)
def test_the_order_of_the_store_does_not_matter(candidates: list[Match]) -> None:
    by_id = {candidate.episode_id: candidate for candidate in candidates}
    first = fuse_scores(list(by_id.values()), text="x", now=NOW, settings=SETTINGS)
    assert fuse_scores(list(by_id.values())[::-1], text="x", now=NOW, settings=SETTINGS) == first


def test_words_lift_in_proportion_to_the_best() -> None:
    assert order(
        match("a", similarity=0.5), match("b", similarity=0.3, lexical=9.0), match("c", similarity=0.3, lexical=3.0)
    ) == ["b", "a", "c"]


def test_a_speaker_in_the_query_leads_and_a_role_is_no_name() -> None:
    candidates = [match("ann", speaker="Ann"), match("bob", similarity=0.81, speaker="Bob")]
    assert order(*candidates, text="What did Ann's sister say?") == ["ann", "bob"]
    assert order(*candidates, text="What did the annual report say?") == ["bob", "ann"]
    roles = [match("u", speaker="user"), match("v", similarity=0.81)]
    assert order(*roles, text="Which user?") == ["v", "u"]


def test_a_date_in_the_query_leads_to_what_was_said_then_or_on_the_next_day() -> None:
    day = 86400.0
    candidates = [match("then", age=10 * day), match("next", age=9 * day), match("later", similarity=0.85, age=7 * day)]
    asked = time.strftime("%Y-%m-%d", time.localtime(NOW - 10 * day))
    assert order(*candidates, text=f"What did we do on {asked}?")[-1] == "later"
    assert order(*candidates, text="What did we do?")[0] == "later"
    ranking = fuse_scores(candidates, text=asked, now=NOW, settings=SETTINGS)
    assert ["date" in candidate.reasons for candidate in ranking] == [True, True, False]


def test_an_utterance_that_only_asks_stands_back() -> None:
    assert order(match("asks", question="Where?", answer=""), match("says", question="There.", answer="")) == [
        "says",
        "asks",
    ]
    ranking = fuse_scores([match(question="Where?", answer="There.")], text="x", now=NOW, settings=SETTINGS)
    assert "asks only" not in ranking[0].reasons


def test_the_newer_of_two_equally_similar_episodes_leads() -> None:
    assert order(match("old", age=9e6), match("new", age=60.0)) == ["new", "old"]


def test_recency_cannot_lift_an_irrelevant_episode() -> None:
    for similarity, count in ((0.39, 0), (0.41, 1)):
        ranking = fuse_scores([match(similarity=similarity)], text="cat", now=NOW, settings=SETTINGS)
        relevant = keep_relevant(ranking, text="cat", words=WORDS, settings=SETTINGS, session_id="s")
        assert len(list(relevant)) == count


@pytest.mark.parametrize(
    ("text", "session", "passes"),
    [
        ("Which month comes next?", "new", False),
        ("Which month comes next?", "s", True),  # the conversation itself
        ("Which month is my wedding in?", "new", True),
        ("Quel mois ai-je dit ? Mon mariage", "new", True),
        ("Wann ist meine Hochzeit?", "new", True),
        ("我什么时候结婚？", "new", True),
        ("What did Nora plan?", "new", True),  # the speaker
        ("When does Mia marry?", "new", True),  # a name in the episode
        ("When does Otto marry?", "new", False),
        ("Mia", "new", False),  # the first word is written so in any case
        ("What does RAM stand for?", "new", False),
    ],
)
def test_a_question_about_the_world_needs_more_likeness(text: str, session: str, passes: bool) -> None:
    candidate = match(similarity=0.45, question="Mia marries this month, the RAM is next.", answer="", speaker="Nora")
    ranking = fuse_scores([candidate], text=text, now=NOW, settings=CLOSENESS_COUNTS)
    relevant = keep_relevant(ranking, text=text, words=WORDS, settings=CLOSENESS_COUNTS, session_id=session)
    assert any(relevant) is passes
    mere_question = msgspec.structs.replace(candidate, question="Does Mia wait for RAM?", answer="Yes.", own=0.9)
    ranking = fuse_scores([mere_question], text=text, now=NOW, settings=CLOSENESS_COUNTS)
    relevant = keep_relevant(ranking, text=text, words=WORDS, settings=CLOSENESS_COUNTS, session_id=session)
    assert any(relevant) is passes
    near = fuse_scores([msgspec.structs.replace(candidate, own=0.5)], text=text, now=NOW, settings=CLOSENESS_COUNTS)
    assert any(keep_relevant(near, text=text, words=WORDS, settings=CLOSENESS_COUNTS, session_id=session))


def test_a_question_about_the_world_needs_some_of_its_words() -> None:
    candidate = match(similarity=0.6, question="Grandma keeps bees in the garden.", answer="")
    for text, count in (("What do bees make?", 1), ("Which insects make honey?", 0)):
        ranking = fuse_scores([candidate], text=text, now=NOW, settings=SETTINGS)
        relevant = list(keep_relevant(ranking, text=text, words=WORDS, settings=SETTINGS, session_id="new"))
        assert len(relevant) == count, text


def test_enough_of_the_words_pass_below_the_floor() -> None:
    candidate = match(similarity=0.1, lexical=5.0, question="The order XJ-42 ships to Lyon", answer="")
    ranking = fuse_scores([candidate], text="x", now=NOW, settings=SETTINGS)

    def passes(text: str) -> bool:
        return any(keep_relevant(ranking, text=text, words=WORDS, settings=SETTINGS))

    assert passes("when does order XJ-42 ship?")
    assert not passes("order pizza, wine and bread for the party")
    assert not passes("Lyon")  # one word is too little


@pytest.mark.parametrize(
    "text", ["hi", "Thanks!", "ok great, thank you so much", "Bonjour, ça va ?", "lol", "Good night"]
)
def test_small_talk_recalls_nothing(text: str) -> None:
    ranking = fuse_scores([match(similarity=0.99, question=text)], text=text, now=NOW, settings=SETTINGS)
    assert list(keep_relevant(ranking, text=text, words=WORDS, settings=SETTINGS)) == []


@pytest.mark.parametrize("text", ["What is my cat called?", "Is it 42?", "Who am I?", "How was my weekend in Lyon?"])
def test_a_question_is_no_small_talk(text: str) -> None:
    ranking = fuse_scores([match()], text=text, now=NOW, settings=SETTINGS)
    assert list(keep_relevant(ranking, text=text, words=WORDS, settings=SETTINGS)) == ranking


def test_small_talk_is_not_recalled_either() -> None:
    ranking = fuse_scores([match(similarity=0.99, question="Thanks!")], text="cat", now=NOW, settings=SETTINGS)
    assert list(keep_relevant(ranking, text="cat", words=WORDS, settings=SETTINGS)) == []


@given(st.floats(-1e6, 1e9), st.floats(1.0, 1e8))
def test_recency_is_a_share_that_halves(age: float, half_life: float) -> None:
    assert 0.0 <= recency(age, half_life=half_life) <= 1.0
    assert recency(half_life, half_life=half_life) == pytest.approx(0.5)


def test_an_episode_far_from_its_neighbours_passes_by_itself() -> None:
    ranking = fuse_scores([match(similarity=0.3)], text="cat", now=NOW, settings=SETTINGS)
    near = fill_own_cosines(ranking, vectors(t1=[1, 0.0]), unit(np.array([1, 0.5])))
    assert near[0].match.own == pytest.approx(0.894, abs=0.001)
    alone = [
        msgspec.structs.replace(candidate, match=msgspec.structs.replace(candidate.match, own=0.0))
        for candidate in near
    ]
    assert len(list(keep_relevant(near, text="cat", words=WORDS, settings=SETTINGS))) == 1
    assert list(keep_relevant(alone, text="cat", words=WORDS, settings=SETTINGS)) == []
    assert fill_own_cosines(ranking, {}, None) == ranking


def vectors(**raw: list[float]) -> dict[str, Vector]:
    return {f"e-{turn}": unit(np.array(value)) for turn, value in raw.items()}


def test_an_older_fact_loses_to_the_newer_one_that_replaces_it() -> None:
    old = match("old", similarity=0.7, age=9e5, question="The cat is called Milo.", answer="")
    new = match("new", similarity=0.65, question="The cat is called Otto.", answer="")
    ranking = fuse_scores([old, new], text="cat", now=NOW, settings=SETTINGS)
    assert [candidate.match.turn_id for candidate in ranking] == ["old", "new"]
    after = demote_superseded(ranking, vectors(old=[1, 0.1], new=[1, 0.0]), settings=SETTINGS)
    assert [candidate.match.turn_id for candidate in after] == ["new", "old"]
    assert after[1].reasons[-1] == "superseded by e-new"
    assert demote_superseded(ranking, vectors(old=[1, 0.0], new=[0, 1.0]), settings=SETTINGS) == ranking
    assert demote_superseded(ranking, {}, settings=SETTINGS) == ranking


def test_another_speaker_and_a_repetition_replace_nothing() -> None:
    near = vectors(old=[1, 0.1], new=[1, 0.0])
    for changes in ({"speaker": "Bob"}, {"question": "the CAT is  called Milo."}):
        old = match("old", similarity=0.7, age=9e5, question="The cat is called Milo.")
        new = msgspec.structs.replace(match("new", question="The cat is called Otto."), **changes)
        ranking = fuse_scores([old, new], text="cat", now=NOW, settings=SETTINGS)
        assert demote_superseded(ranking, near, settings=SETTINGS) == ranking


def test_an_episode_is_not_replaced_by_one_of_the_same_moment() -> None:
    near = vectors(old=[1, 0.1], new=[1, 0.0])
    old = match("old", question="The cat is called Milo.")
    for moment in (old.created_at, math.nextafter(old.created_at, math.inf)):
        new = msgspec.structs.replace(match("new", question="The cats were named."), created_at=moment)
        ranking = fuse_scores([old, new], text="cat", now=NOW, settings=SETTINGS)
        assert demote_superseded(ranking, near, settings=SETTINGS) == ranking


def test_the_same_text_is_shown_once_in_its_best_place() -> None:
    candidates = [
        match("a", similarity=0.7, question="Where is Paris?", answer="In France."),
        match("b", similarity=0.9, question="where  is PARIS?", answer=" in france. "),
        match("c", similarity=0.6, question="Where is Paris?", answer="In Texas."),
    ]
    ranking = list(drop_duplicates(fuse_scores(candidates, text="x", now=NOW, settings=SETTINGS)))
    assert [candidate.match.turn_id for candidate in ranking] == ["b", "c"]


def test_a_long_text_is_cut_and_the_reasons_say_so() -> None:
    all_hits = hits(fuse_scores([match(answer="x" * 5000)], text="x", now=NOW, settings=SETTINGS))
    (hit,) = fit_budget(all_hits, settings=msgspec.structs.replace(SETTINGS, token_budget=9999))
    assert len(hit.answer) <= SETTINGS.hit_characters
    assert "shortened" in hit.reasons


def test_a_hit_that_does_not_fit_makes_room_for_a_smaller_one() -> None:
    settings = msgspec.structs.replace(SETTINGS, token_budget=100)
    candidates = [match("big", similarity=0.9, answer="x" * 400), match("small", similarity=0.8)]
    best_hits = fit_budget(hits(fuse_scores(candidates, text="x", now=NOW, settings=settings)), settings=settings)
    assert [hit.turn_id for hit in best_hits] == ["small"]


def test_the_budget_counts_in_the_measure_of_the_caller() -> None:
    settings = msgspec.structs.replace(SETTINGS, token_budget=4)
    all_hits = list(
        hits(fuse_scores([match(question="four words of text", answer="")], text="x", now=NOW, settings=settings))
    )
    assert fit_budget(all_hits, settings=settings) == ()
    assert len(fit_budget(all_hits, settings=settings, measure=lambda text: len(text.split()))) == 1
