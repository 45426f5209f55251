from hypothesis import given
from hypothesis import strategies as st

from agents.shared.excerpt import MARK, asked, shortened
from schemas.chat import Message


@given(st.text(max_size=200), st.integers(20, 120))
def test_never_longer_than_the_limit_and_marked_when_cut(text: str, limit: int) -> None:
    cut = shortened(text, limit)
    assert len(cut) <= limit
    assert (cut == text) if len(text) <= limit else (MARK in cut)


def test_keeps_the_beginning_and_the_end() -> None:
    cut = shortened("begin" + "x" * 500 + "end", 60)
    assert cut.startswith("begin")
    assert cut.endswith("end")


def test_a_single_question_stands_alone() -> None:
    messages = (Message(role="system", content="Be brief."), Message(role="user", content="Why?"))
    assert asked(messages, 100) == "Why?"


def test_an_earlier_exchange_leads_the_last_question() -> None:
    messages = (
        Message(role="user", content="Capital of France?"),
        Message(role="assistant", content="Paris."),
        Message(role="user", content="And of Italy?"),
    )
    text = asked(messages, 200)
    assert text.index("Capital of France?") < text.index("Paris.") < text.index("And of Italy?")
    assert asked(messages, 16) == "And of Italy?"


@given(st.lists(st.text(max_size=80), min_size=1, max_size=5), st.integers(40, 200))
def test_a_conversation_keeps_to_the_limit(contents: list[str], limit: int) -> None:
    messages = tuple(Message(role="user", content=content) for content in contents)
    assert len(asked(messages, limit)) <= limit + len("\n\n")
