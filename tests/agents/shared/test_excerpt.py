from hypothesis import given
from hypothesis import strategies as st

from agents.shared.excerpt import MARK, client_question, shortened
from schemas.chat import Message


@given(st.text(max_size=200), st.integers(20, 120))
def test_shortened_text_is_within_the_limit_and_marked(text: str, limit: int) -> None:
    shortened_text = shortened(text, limit)
    assert len(shortened_text) <= limit
    assert (shortened_text == text) if len(text) <= limit else (MARK in shortened_text)


def test_shortened_text_keeps_the_beginning_and_the_end() -> None:
    shortened_text = shortened("begin" + "x" * 500 + "end", 60)
    assert shortened_text.startswith("begin")
    assert shortened_text.endswith("end")


def test_a_single_question_stands_alone() -> None:
    messages = (Message(role="system", content="Be brief."), Message(role="user", content="Why?"))
    assert client_question(messages, 100) == "Why?"


def test_an_earlier_exchange_leads_the_last_question() -> None:
    messages = (
        Message(role="user", content="Capital of France?"),
        Message(role="assistant", content="Paris."),
        Message(role="user", content="And of Italy?"),
    )
    text = client_question(messages, 200)
    assert text.index("Capital of France?") < text.index("Paris.") < text.index("And of Italy?")
    assert client_question(messages, 16) == "And of Italy?"


@given(st.lists(st.text(max_size=80), min_size=1, max_size=5), st.integers(40, 200))
def test_a_conversation_keeps_to_the_limit(contents: list[str], limit: int) -> None:
    messages = tuple(Message(role="user", content=content) for content in contents)
    assert len(client_question(messages, limit)) <= limit + len("\n\n")
