"""What newer texts replace: who is spoken of, names, numbers, days and negation decide; and the order that follows."""

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agents.memory.context import unit
from agents.memory.ranking import Match, ScoredMatch, demote_superseded, keep_relevant, put_newer_first, replaces
from agents.memory.settings import MemorySettings
from agents.memory.superseding import LEAST_COSINES, corrects, least_cosine, says_otherwise
from agents.memory.text.claims import read_claims
from agents.memory.text.words import WordEncoder

SETTINGS = MemorySettings(data_dir=Path("nowhere"))

REPLACED = [
    ("My budget is 1200.", "My budget is 1500 euros."),
    ("Remember that my budget is 1200.", "My budget is now 1,500 €."),
    ("I live in Beijing.", "I moved to Shanghai last week."),
    ("By the way, I live in Beijing.", "Hi! I moved to Shanghai last week. Can you recommend a gym?"),
    ("I live in Lyon and I work at Airbus.", "I moved to Nice. I joined Thales."),
    ("The cat is called Milo.", "The cat is called Otto."),
    ("My dog is called Rex.", "My dog's name is Max."),
    ("I like tea.", "I do not like tea any more."),
    ("I don't like tea.", "I like tea now."),
    ("I drink coffee.", "I have stopped drinking coffee."),
    ("The meeting is on Monday at ten.", "The meeting was moved to Tuesday."),
    ("The meeting is at 10.", "The meeting moved to 11."),
    ("I work as a teacher.", "I became a pilot last year."),
    ("My address is 5 Oak Street.", "My new address is 12 Elm Road."),
    ("Our manager is Tom.", "Sarah is our manager now."),
    ("J'habite Paris.", "On a déménagé à Lyon la semaine dernière."),
    ("Mon plat préféré est la pizza.", "Mon plat préféré est le couscous."),
    ("Je travaille chez Airbus.", "J'ai quitté Airbus."),
    ("J'ai 30 ans.", "J'ai eu 31 ans hier."),
    ("Le loyer est de 900 euros.", "Le loyer est passé à 950 euros."),
    ("Je n'aime pas le thé.", "J'aime le thé maintenant."),
    ("La réunion est à 10h.", "La réunion est à 11h."),
]
BOTH_STAND = [
    ("My son is allergic to peanuts.", "My daughter is allergic to peanuts."),
    ("My son is called Tom.", "My son is called Tim."),
    ("I live in Beijing.", "My sister moved to Shanghai."),
    ("I live in Beijing.", "I will move to Shanghai next year."),
    ("I live in Beijing.", "I used to live in Shanghai."),
    ("I live in Beijing.", "I live in Beijing now."),
    ("I live in Beijing.", "I moved the sofa to the living room."),
    ("My budget is 1200.", "What if my budget is 1500?"),
    ("My budget is 1200 euros.", "My budget is 1,200 €."),
    ("My budget for the kitchen is 1200 euros.", "My budget for the bathroom is 1500 euros."),
    ("I am allergic to peanuts. My budget is 1200.", "My budget is 1500."),
    ("I play tennis on Monday.", "I play tennis on Friday."),
    ("My flight is on Monday.", "My flight is at 9:40."),
    ("I ran 5 km.", "I ran 8 km."),
    ("My daughter is 5.", "My daughter is 120 cm tall."),
    ("I like tea.", "Anna does not like tea any more."),
    ("My son eats fish.", "My son does not eat fish on Fridays."),
    ("He lives in Rome.", "She lives in Naples."),
    ("Mon fils est allergique aux arachides.", "Ma fille est allergique aux arachides."),
    ("J'habite à Pékin.", "Et si je déménageais à Shanghai ?"),
    ("J'habite à Pékin.", "Je vais déménager à Shanghai."),
    ("J'aime le thé.", "Anna n'aime plus le thé."),
    ("J'ai rendez-vous lundi.", "J'ai rendez-vous jeudi."),
    ("J'ai couru 5 km.", "J'ai couru 8 km."),
]
TEXTS = sorted({text for pair in (*REPLACED, *BOTH_STAND) for text in pair})


@pytest.mark.parametrize(("older", "newer"), REPLACED)
def test_something_new_of_the_same_replaces(older: str, newer: str) -> None:
    assert says_otherwise(newer, older)


@pytest.mark.parametrize(("older", "newer"), BOTH_STAND)
def test_another_person_thing_day_or_a_repetition_replaces_nothing(older: str, newer: str) -> None:
    assert not says_otherwise(newer, older)


@given(st.text() | st.sampled_from(TEXTS))
def test_the_same_text_replaces_nothing(text: str) -> None:
    assert not says_otherwise(text, text)
    assert not says_otherwise(f" {text.upper()} ", f" {text.upper()} ")


def test_of_two_facts_one_is_corrected_and_the_episode_stands() -> None:
    both, newer = "My name is Sam and I live in Toronto.", "I moved to Montreal."
    assert corrects(newer, both)
    assert not says_otherwise(newer, both)
    ranking = [
        ScoredMatch(match=match(1, at=1.0, text=both), score=0.9),
        ScoredMatch(match=match(2, at=2.0, text=newer), score=0.1),
    ]
    vector = unit([1.0, 0.0])
    ordered = demote_superseded(ranking, {"e1": vector, "e2": vector}, settings=SETTINGS)
    off = replace(SETTINGS, same_fact=1.0)
    assert demote_superseded(ranking, {"e1": vector, "e2": vector}, settings=off) == ranking
    assert [(item.match.episode_id, item.score, item.newer) for item in ordered] == [
        ("e2", 0.9, None),
        ("e1", 0.9, None),
    ]


def test_a_document_is_read_as_no_claim() -> None:
    assert read_claims("My budget is 1200. " * 1000) == ((),)


def test_a_threshold_belongs_to_the_embedder_and_the_setting_goes_first() -> None:
    for name, least in LEAST_COSINES.items():
        assert least_cosine(name) == least_cosine(f"/models/{name}") == least
        assert least_cosine(name, 0.9) == 0.9
    assert least_cosine("unknown") < min(LEAST_COSINES.values())


def match(number: int, *, at: float, text: str = "", speaker: str = "") -> Match:
    return Match(
        episode_id=f"e{number}", turn_id=f"t{number}", session_id="s", question=text, answer="", created_at=at,
        similarity=0.5, speaker=speaker,
    )  # fmt: skip


moments = st.integers(0, 5).map(float) | st.floats(0.0, 1e10)


@given(st.sampled_from(TEXTS), st.sampled_from(TEXTS), moments, moments)
def test_two_episodes_never_replace_each_other(first: str, second: str, at: float, then: float) -> None:
    one, two = match(1, at=at, text=first), match(2, at=then, text=second)
    assert not (replaces(one, two) and replaces(two, one))
    if replaces(one, two):
        assert at > then
        assert not replaces(replace(one, speaker="Bob"), two)


@st.composite
def rankings(draw: st.DrawFn) -> tuple[list[ScoredMatch], set[tuple[str, str]]]:
    """A ranking with whatever scores and times, and pairs between its episodes and others."""
    scores = draw(st.lists(st.floats(-10.0, 10.0) | st.sampled_from([0.5, 1e300, -1e300]), min_size=1, max_size=9))
    ranking = [ScoredMatch(match=match(n, at=draw(moments)), score=score) for n, score in enumerate(scores)]
    names = st.sampled_from([f"e{number}" for number in range(len(scores) + 1)])
    return ranking, draw(st.sets(st.tuples(names, names), max_size=14))


@given(rankings(), st.randoms(use_true_random=False))
def test_no_episode_stands_before_one_that_replaced_it(
    drawn: tuple[list[ScoredMatch], set[tuple[str, str]]], random: Random
) -> None:
    ranking, pairs = drawn
    parts = {pair for pair in pairs if pair > ("e4", "")}
    whole = pairs - parts
    ordered = put_newer_first(ranking, whole, parts=parts, settings=SETTINGS)
    assert {item.match for item in ordered} == {item.match for item in ranking}
    place = {item.match.episode_id: at for at, item in enumerate(ordered)}
    times = {item.match.episode_id: item.match.created_at for item in ranking}
    effective = {(n, o) for n, o in pairs if n in times and o in times and times[n] - times[o] > 1e-6}
    assert all(place[newer] < place[older] for newer, older in effective)
    assert {item.match.episode_id for item in ordered if item.newer} == {older for _, older in effective & whole}
    assert [item.score for item in ordered] == sorted((item.score for item in ordered), reverse=True)
    shuffled = random.sample(ranking, len(ranking))
    assert put_newer_first(shuffled, sorted(whole, reverse=True), parts=parts, settings=SETTINGS) == ordered


def test_a_chain_is_shown_newest_first_and_all_name_the_newest() -> None:
    ranking = [ScoredMatch(match=match(n, at=float(n)), score=score) for n, score in enumerate((0.9, 0.2, 0.1, 0.5))]
    ordered = put_newer_first(ranking, {("e1", "e0"), ("e2", "e1")}, settings=SETTINGS)
    assert [(item.match.episode_id, item.newer) for item in ordered] == [
        ("e2", None), ("e1", "e2"), ("e0", "e2"), ("e3", None),
    ]  # fmt: skip
    assert ordered[0].score == 0.9
    assert ordered[0].corrects == {"e0", "e1"}


def test_a_correction_of_a_relevant_episode_is_relevant_though_far_from_the_query() -> None:
    texts = ("My name is Sam and I live in Toronto.", "I moved to Montreal.", "I moved to Ottawa.")
    ranking = [
        ScoredMatch(match=replace(match(n, at=float(n), text=text), similarity=0.6 if n == 0 else 0.1), score=1.0 - n)
        for n, text in enumerate(texts)
    ]
    vectors = {f"e{n}": unit([1.0, 0.0]) for n in range(3)}
    ordered = demote_superseded(ranking, vectors, settings=SETTINGS)
    relevant = keep_relevant(ordered, text="Where do I live?", words=WordEncoder(), settings=SETTINGS)
    assert [item.match.episode_id for item in relevant] == ["e2", "e0"]
    alone = demote_superseded(ranking, {}, settings=SETTINGS)
    relevant = keep_relevant(alone, text="Where do I live?", words=WordEncoder(), settings=SETTINGS)
    assert [item.match.episode_id for item in relevant] == ["e0"]
