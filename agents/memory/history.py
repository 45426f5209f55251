"""A session's last turns as messages, for a client that sends only its new message and asks for the others."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from agents.memory.ranking import ROLES, Match, ScoredMatch, normalised
from schemas.chat import Message, Role


@dataclass(frozen=True)
class SessionTurns:
    """A session's last ``turns``, oldest first, as far as they fit; ``until`` is the Unix time of the newest, fitting
    or not, 0 without any. It is ``partial`` where newer turns may be missing."""

    turns: Sequence[Match] = ()
    until: float = 0.0
    partial: bool = False


def sends_history(messages: Sequence[Message]) -> bool:
    """Whether the client itself sent something of the conversation before its new message."""
    return _start_of_turn(messages) > _end_of_instructions(messages)


def insert_history(messages: Sequence[Message], turns: Sequence[Match]) -> tuple[Message, ...]:
    """The client's messages with the turns, oldest first, between its instructions and its new message."""
    at = _end_of_instructions(messages)
    return (*messages[:at], *turn_messages(turns), *messages[at:])


def turn_messages(turns: Iterable[Match]) -> tuple[Message, ...]:
    """The turns as a conversation. What one side says in several episodes is one message: many templates want both
    sides to alternate."""
    messages: list[Message] = []
    for turn in turns:
        for message in _messages_of(turn):
            if messages and messages[-1].role == message.role:
                joined = f"{messages[-1].content}\n{message.content}"
                messages[-1] = Message(role=message.role, content=joined)
            else:
                messages.append(message)
    return tuple(messages)


def fit_turns(turns: Sequence[Match], *, budget: int, measure: Callable[[str], int]) -> list[Match]:
    """The newest of the turns (oldest first) that are within the budget together; none is cut or passed over.

    They do not begin with an imported line of the assistant, whose question would be missing.
    """
    newest: list[Match] = []
    for turn in reversed(turns):
        budget -= measure(turn.question) + measure(turn.answer)
        if budget < 0:
            break
        newest.append(turn)
    while newest and newest[-1].speaker == "assistant":
        newest.pop()
    return newest[::-1]


def drop_present(
    ranking: Iterable[ScoredMatch], *, messages: Sequence[Message], session_id: str, history: Collection[str]
) -> list[ScoredMatch]:
    """The ranking without what the prompt holds anyway: the turns in ``history``, and those that the client sent.

    A client that sends its conversation sends the question of each turn; the answer may be edited there.
    """
    sent = {normalised(message.content) for message in messages[: _start_of_turn(messages)]}

    def is_present(match: Match) -> bool:
        if match.episode_id in history:
            return True
        if normalised(match.question) not in sent:
            return False
        return match.session_id == session_id or not match.answer or normalised(match.answer) in sent

    return [candidate for candidate in ranking if not is_present(candidate.match)]


def _messages_of(turn: Match) -> Iterable[Message]:
    """An answered turn as two messages, an imported line as one; a speaker who is no role stands before its text."""
    role: Role = "assistant" if turn.speaker == "assistant" else "user"
    text = turn.question if turn.speaker in ROLES else f"{turn.speaker}: {turn.question}"
    yield Message(role=role, content=text)
    if turn.answer:
        yield Message(role="assistant", content=turn.answer)


def _end_of_instructions(messages: Sequence[Message]) -> int:
    return next((at for at, message in enumerate(messages) if message.role != "system"), len(messages))


def _start_of_turn(messages: Sequence[Message]) -> int:
    """Where the new turn begins: at the last message of the user; a tool's answer after it belongs to the turn."""
    return max((at for at, message in enumerate(messages) if message.role == "user"), default=len(messages))
