"""What a cognitive stage shows the model of a conversation: text of bounded length, with a mark where it was cut."""

from collections.abc import Sequence

from schemas.chat import Message

MARK = " [...] "
"""Stands where text was left out."""


def shortened(text: str, limit: int) -> str:
    """At most ``limit`` characters: the beginning and the end, with :data:`MARK` between them."""
    if len(text) <= limit:
        return text
    room = max(0, limit - len(MARK))
    tail = room // 2
    return text[: room - tail] + MARK + (text[-tail:] if tail else "")


def client_question(messages: Sequence[Message], limit: int) -> str:
    """The client's question for a reader who does not know the conversation: the earlier messages, then the question.

    At most ``limit`` characters. A conversation of one message gives that message alone. System messages are left out:
    they instruct the model that answers.
    """
    exchange = [message for message in messages if message.role in ("user", "assistant")]
    if len(exchange) == 1:
        return shortened(exchange[0].content, limit)
    last = next((message.content for message in reversed(exchange) if message.role == "user"), "")
    last = shortened(last, limit)
    lines = [f"{message.role}: {message.content}" for message in exchange[:-1]]
    room = limit - len(last)
    if not lines or room < 2 * len(MARK):
        return last
    return shortened("\n".join(lines), room) + "\n\n" + last
