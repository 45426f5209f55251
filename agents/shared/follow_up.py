"""A question about an answer, asked as the next messages of the turn's own conversation.

The worker has that conversation in its prompt cache, so that a follow-up costs only its own tokens, and several of them
are the ballots of one job (:meth:`agents.shared.model.Consultation.score_ballots`).
"""

from schemas.chat import Message


def follow_up(answer: str, question: str) -> tuple[Message, ...]:
    """``answer`` as an assistant's message, then ``question`` about it as a user's message."""
    return (Message(role="assistant", content=answer), Message(role="user", content=question))
