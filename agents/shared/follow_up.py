"""What a stage asks about an answer: an ending that goes on from the turn's own conversation.

The worker holds that conversation already, so that an ending costs its own tokens only, and several endings are one job
(:meth:`agents.shared.model.Consultation.score_ballots`).
"""

from schemas.chat import Message


def ending(answer: str, question: str) -> tuple[Message, ...]:
    """``answer`` as the assistant said it, then the question about it."""
    return (Message(role="assistant", content=answer), Message(role="user", content=question))
