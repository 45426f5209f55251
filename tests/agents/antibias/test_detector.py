import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.antibias import lexicon
from agents.antibias.detector import find_touch


@pytest.mark.parametrize(
    "question",
    [
        "What is the capital of France?",
        "Fix the race condition between two threads",
        "Which female header mates with a 2.54 mm male pin?",
        "Add a foreign key; the man page of psql says how",
        "Minority carriers in a PN junction",
        "La ROM est-elle plus rapide que la RAM ?",
        "Créer deux clés étrangères en SQL",
        "An intelligent charger for a laptop",
        "How do I mend a human-readable log manually?",
        "people use docker compose",
    ],
)
def test_technical_turns_touch_nobody(question: str) -> None:
    assert find_touch(question, "Set the prescaler to 7199.") is None


@pytest.mark.parametrize(
    ("question", "term", "language"),
    [
        ("Are women worse at maths than men?", "women", "en"),
        ("Should I hire her although she is older?", "her", "en"),
        ("Why are poor people lazy?", "poor people", "en"),
        ("Les immigrés sont-ils paresseux ?", "immigrés", "fr"),
        ("Mon voisin est-il malhonnête ?", "voisin", "fr"),
        ("A WOMEN-only club", "women", "en"),
    ],
)
def test_turns_about_people_are_seen(question: str, term: str, language: str) -> None:
    touch = find_touch(question, "")
    assert touch is not None
    assert term in touch.terms
    assert touch.language == language


def test_the_answer_counts_too() -> None:
    assert find_touch("Who broke it?", "Probably an immigrant.") is not None


@given(st.sampled_from(["women", "femmes", "refugees", "musulmans"]), st.text("abcdefgh ", max_size=30))
def test_terms_count_as_whole_words_only(term: str, text: str) -> None:
    assert find_touch(f"{text} {term} {text}", "") is not None
    assert find_touch(f"x{term}x", "") is None


def test_every_term_is_a_valid_expression_of_its_own() -> None:
    for table in (lexicon.GROUPS, lexicon.PERSONS, lexicon.JUDGEMENTS):
        for terms in table.values():
            assert all(term == term.strip() and term for term in terms)
            assert len(terms) == len(set(terms))
