"""Key phrases and salience."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.memory.episodes import build_record
from agents.memory.text.concepts import MOST, concepts, salience
from agents.memory.text.smalltalk import is_small_talk
from agents.memory.text.words import LONGEST_TEXT, WordEncoder, cut_middle
from tests.agents.memory.scenes import answer_ready, turn, unit


def test_concepts_are_what_the_text_is_about() -> None:
    phrases = concepts("How do I debounce a button on an STM32 with HAL timers?")
    assert "hal timers" in phrases
    assert "button" in phrases
    assert "hal" not in phrases  # the longer phrase says it


@pytest.mark.parametrize("text", ["", "  ", "Thanks!", "Hello", "ok"])
def test_small_talk_is_about_nothing(text: str) -> None:
    assert concepts(text) == ()
    assert salience(text, ()) == 0.0


@given(st.text(max_size=300))
def test_any_text_gives_few_distinct_concepts_and_a_share(text: str) -> None:
    phrases = concepts(text)
    assert len(phrases) == len(set(phrases)) <= MOST
    assert 0.0 <= salience(text, phrases) <= 1.0


def test_a_text_that_says_more_is_more_salient() -> None:
    long = "My sister Clara moved to Lisbon in March and opened a bakery near the river with her friend Tom."
    assert salience(long, concepts(long)) > salience("I moved.", concepts("I moved."))


def test_the_record_carries_concepts_and_salience() -> None:
    episode = build_record(answer_ready(turn(), unit(1), text="Where is Lisbon?", answer="In Portugal.")).episode
    assert "lisbon" in episode.concepts
    assert 0.0 < episode.saillance_score <= 1.0


def test_a_huge_text_counts_by_its_beginning_and_its_end() -> None:
    encoder = WordEncoder("english")
    middle = " ".join(f"padding{number}" for number in range(20_000))
    counts = encoder.counts(f"alpha beta {middle} omega")
    names = ("alpha", "omega", "padding0", "padding19999", "padding12000")
    known = {name: encoder.query_words(name)[0] for name in names}
    assert [name for name, key in known.items() if key not in counts] == ["padding12000"]


def test_only_the_middle_of_a_huge_text_is_cut() -> None:
    assert len(cut_middle("a" * 10**6)) == LONGEST_TEXT + 1
    assert cut_middle("a" * LONGEST_TEXT) == "a" * LONGEST_TEXT


def test_a_text_of_megabytes_costs_no_more_than_one_of_the_limit() -> None:
    encoder, text = WordEncoder(), " ".join(f"word{number}" for number in range(300_000))

    def measure(length: int) -> float:
        began = time.process_time()
        encoder.counts(text[:length])
        salience(text[:length], ())
        assert not is_small_talk(text[:length])
        return time.process_time() - began

    measure(len(text))
    assert measure(len(text)) < 4 * measure(LONGEST_TEXT) + 0.05
