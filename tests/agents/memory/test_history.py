"""A session's last turns as messages of the next one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.memory.history import drop_present, fit_turns, insert_history, sends_history, turn_messages
from agents.memory.ranking import Match, ScoredMatch
from schemas.chat import Message, Role, ToolCall


def past_turn(question: str, answer: str = "", *, speaker: str = "", session: str = "s", name: str = "") -> Match:
    return Match(
        episode_id=name or question,
        turn_id=name or question,
        session_id=session,
        question=question,
        answer=answer,
        created_at=1.0,
        similarity=0.0,
        speaker=speaker,
    )


def said(role: Role, content: str) -> Message:
    return Message(role=role, content=content)


CALL = Message(role="assistant", content="", tool_calls=(ToolCall(id="c", name="clock", arguments="{}"),))
RESULT = Message(role="tool", content="noon", tool_call_id="c", name="clock")


@pytest.mark.parametrize(
    ("messages", "sends"),
    [
        ([said("user", "hi")], False),
        ([said("system", "Be brief."), said("user", "hi")], False),
        ([said("user", "What time is it?"), CALL, RESULT], False),  # one turn: its tool's answer belongs to it
        ([said("user", "hi"), said("assistant", "Hello."), said("user", "bye")], True),
        ([said("assistant", "Hello."), said("user", "bye")], True),
        ([said("user", "hi"), said("user", "bye")], True),
    ],
)
def test_a_client_with_more_than_its_new_message_sends_its_history(messages: list[Message], sends: bool) -> None:
    assert sends_history(messages) is sends


def test_turns_stand_between_the_instructions_and_the_new_message() -> None:
    turns = [past_turn("I have 21 apples.", "Noted."), past_turn("And 3 pears.", "Fine.")]
    messages = insert_history([said("system", "Be brief."), said("user", "How many?"), CALL, RESULT], turns)
    assert [message.content for message in messages] == [
        "Be brief.",
        "I have 21 apples.",
        "Noted.",
        "And 3 pears.",
        "Fine.",
        "How many?",
        "",
        "noon",
    ]
    assert insert_history([said("user", "hi")], []) == (said("user", "hi"),)


def test_imported_lines_are_messages_of_their_speakers() -> None:
    turns = [
        past_turn("My cat is ill.", speaker="user"),
        past_turn("Since Monday.", speaker="user"),
        past_turn("Poor cat.", speaker="assistant"),
        past_turn("It ate a fly.", speaker="Mia"),
    ]
    assert turn_messages(turns) == (
        said("user", "My cat is ill.\nSince Monday."),
        said("assistant", "Poor cat."),
        said("user", "Mia: It ate a fly."),
    )


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(0, 30))
def test_the_newest_whole_turns_within_the_budget_stay(sizes: list[int], budget: int) -> None:
    turns = [past_turn("x" * size, name=str(number)) for number, size in enumerate(sizes)]
    kept = fit_turns(turns, budget=budget, measure=len)
    assert kept == turns[len(turns) - len(kept) :]
    assert sum(len(turn.question) for turn in kept) <= budget
    longer = turns[len(turns) - len(kept) - 1 :]
    assert len(kept) == len(turns) or sum(len(turn.question) for turn in longer) > budget


def test_history_does_not_begin_with_half_an_imported_exchange() -> None:
    turns = [past_turn("long question", speaker="user"), past_turn("ok", speaker="assistant"), past_turn("next")]
    assert fit_turns(turns, budget=6, measure=len) == turns[2:]


def test_nothing_is_quoted_that_the_prompt_holds_anyway() -> None:
    ranking = [
        ScoredMatch(match=match, score=1.0)
        for match in (
            past_turn("in history"),
            past_turn("I have  21 APPLES.", "Noted, 21."),
            past_turn("I have 21 apples.", "Well.", session="other", name="another answer"),
            past_turn("I have 21 apples.", session="other", name="a line"),
            past_turn("How many?", "Three.", session="other", name="asked before"),
            past_turn("Something else"),
        )
    ]
    messages = [said("user", "I have 21 apples."), said("assistant", "Noted."), said("user", "How many?")]
    left = drop_present(ranking, messages=messages, session_id="s", history=["in history"])
    assert [candidate.match.episode_id for candidate in left] == ["another answer", "asked before", "Something else"]
