"""Live text: whatever an attempt repeats, what was shown is always the beginning of one text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.turn import Diverged, LiveText
from schemas.events import InferToken

WORDS = st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=12)


def token(index: int, text: str, attempt: int = 1) -> InferToken:
    return InferToken(turn_id="t", index=index, text=text, attempt=attempt)


@given(words=WORDS, killed_after=st.integers(0, 12), cut=st.integers(1, 4))
def test_a_repeated_decode_is_shown_once(words: list[str], killed_after: int, cut: int) -> None:
    live, text = LiveText(), "".join(words)
    visible = "".join(live.add(token(index, word)) for index, word in enumerate(words[:killed_after]))
    again = [text[start : start + cut] for start in range(0, len(text), cut)]
    visible += "".join(live.add(token(index, piece, 2)) for index, piece in enumerate(again))
    assert visible == text
    assert live.finish(text) == ""


@given(words=WORDS, lost=st.sets(st.integers(0, 12)))
def test_a_lost_token_is_made_up_for_at_the_end(words: list[str], lost: set[int]) -> None:
    live, text = LiveText(), "".join(words)
    pieces = [live.add(token(index, word)) for index, word in enumerate(words) if index not in lost]
    visible = "".join(pieces)
    assert text.startswith(visible)
    assert visible + live.finish(text) == text


def test_tokens_of_an_old_attempt_are_ignored() -> None:
    live = LiveText()
    assert live.add(token(0, "a", 2)) == "a"
    assert live.add(token(1, "z", 1)) == ""
    assert live.add(token(1, "b", 2)) == "b"


def test_a_different_decode_is_not_shown_and_is_refused_at_the_end() -> None:
    live = LiveText()
    assert live.add(token(0, "Paris")) == "Paris"
    assert live.add(token(0, "Lyon", 2)) == ""
    with pytest.raises(Diverged):
        live.finish("Lyon is it")
    assert live.finish("Paris is it") == " is it"


@pytest.mark.parametrize(
    ("visible", "text", "rest"), [(" Paris", "Paris.", "."), ("Paris. \n", "Paris.", ""), ("", "x", "x")]
)
def test_space_at_the_ends_may_differ(visible: str, text: str, rest: str) -> None:
    live = LiveText()
    live.add(token(0, visible))
    assert live.finish(text) == rest
