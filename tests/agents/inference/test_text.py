"""Stop strings and reasoning, however the text is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.inference.text import TextFilter

STOPS = ("END", "\n\n", "<|x|>")
FRAGMENTS = ["a", "b ", "<", "<th", "<think>", "</think>", "</thi", "E", "EN", "END", "\n", "<|x", "|>", ">", "x"]


def filter_text(chunks: list[str], *, stops: tuple[str, ...] = STOPS, thinking: bool = False) -> tuple[str, str, bool]:
    """Content, reasoning, stopped."""
    text = TextFilter(stops=stops, begins="reasoning" if thinking else "content")
    pieces = [piece for chunk in chunks for piece in text.feed(chunk)] + text.finish()
    content = "".join(piece.text for piece in pieces if piece.kind == "content")
    return content, "".join(piece.text for piece in pieces if piece.kind == "reasoning"), text.stopped


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join), st.data(), st.booleans())
def test_result_does_not_depend_on_where_the_text_is_cut(text: str, data: st.DataObject, thinking: bool) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert filter_text(chunks, thinking=thinking) == filter_text([text], thinking=thinking)


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join))
def test_the_content_has_no_stop_string_and_no_opening_marker(text: str) -> None:
    content, _, stopped = filter_text([text])
    assert "<think>" not in content
    if stopped:
        assert not any(stop in content for stop in STOPS)


@given(st.text(alphabet="abc \n", max_size=40))
def test_plain_text_passes_whole(text: str) -> None:
    assert filter_text(list(text), stops=("END",)) == (text, "", False)


@pytest.mark.parametrize(
    ("text", "content", "reasoning"),
    [
        ("<think>why</think>\n\nParis", "Paris", "why"),
        ("So <think>why</think> Paris", "So Paris", "why"),
        ("<think>cut short", "", "cut short"),
        ("Paris<thi", "Paris", ""),
        ("<think>why</thi", "", "why"),
        ("a < b", "a < b", ""),
    ],
)
def test_reasoning_never_reaches_the_content(text: str, content: str, reasoning: str) -> None:
    assert filter_text(list(text))[:2] == (content, reasoning)


def test_prompt_that_opened_the_reasoning() -> None:
    assert filter_text(list("because</think>Paris"), thinking=True) == ("Paris", "because", False)


def test_stop_string_inside_the_reasoning_stops_nothing() -> None:
    assert filter_text(["<think>an END here</think>done"]) == ("done", "an END here", False)


def test_the_text_ends_at_the_stop_string() -> None:
    assert filter_text(list("ab END cd")) == ("ab ", "", True)


def test_partial_stop_string_at_the_end_is_text() -> None:
    assert filter_text(list("ab EN")) == ("ab EN", "", False)
