"""Which passages a message is read in."""

import pytest

from agents.router.passages import LONG, MAX_ASK, MIDDLE, PASSAGE, Passages, is_ask, split_message

FILLING = "The queue was empty again and nothing else happened on that day in the whole plant. " * 30


def test_a_short_message_is_read_as_it_is() -> None:
    text = "x" * LONG
    assert split_message(text) == (Passages(ask=text),)
    assert split_message("") == (Passages(ask=""),)


@pytest.mark.parametrize(
    ("text", "ask"),
    [
        (f"{FILLING}\n\nNow write the query for that.", "Now write the query for that."),
        (f"{FILLING}Now write the query for that.", "Now write the query for that."),
        (f"Why is it empty?\n\n{FILLING}", "Why is it empty?"),
        (f"Résume ce rapport.\n{FILLING}", "Résume ce rapport."),
    ],
)
def test_the_end_that_asks_is_the_ask(text: str, ask: str) -> None:
    (passages,) = split_message(text)
    assert passages.ask == ask
    assert passages.about[0] == text
    assert len(passages.about) == 1 + MIDDLE
    assert all(len(passage) == PASSAGE for passage in passages.about[1:])
    assert text.endswith(passages.about[-1])


def test_both_ends_are_tried_when_both_ask_and_none_when_none_does() -> None:
    both = split_message(f"Can you help me?\n\n{FILLING}\n\nWhat is wrong here?")
    assert [passages.ask for passages in both] == ["Can you help me?", "What is wrong here?"]
    assert [passages.ask for passages in split_message(FILLING)] == [""]


def test_an_ask_is_bounded() -> None:
    (passages,) = split_message("Explain " + "every single word " * 1000)
    assert len(passages.ask) == MAX_ASK


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Please explain the second line.", True),
        ("Peux-tu corriger ce code ?", True),
        ("12:03:11 ERROR write failed", False),
        ("We met on Tuesday.", False),
        ("???", False),
        ("", False),
    ],
)
def test_an_ask_is_a_question_or_begins_with_a_word_of_asking(text: str, expected: bool) -> None:
    assert is_ask(text) is expected
