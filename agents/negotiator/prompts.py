"""What the negotiator asks the model.

Every ballot continues the conversation, which the worker has in its prompt cache: the answer as the assistant's
message, then the question about it.
"""

from agents.shared.follow_up import follow_up
from schemas.chat import Message
from schemas.findings import VoteChoice

VOTE_WORDS: dict[VoteChoice, str] = {"KEEP": "Yes", "REFUSE": "No", "NEUTRAL": "Maybe"}
"""The word for each vote: one token in most vocabularies, and a word that a small model would say anyway."""

LETTERS = ("A", "B")


def ballot(answer: str, *, objection: str | None) -> tuple[Message, ...]:
    """Asks whether ``answer`` is right. The objection of a critic, when there is one, is read before voting."""
    critic = f"A critic objects: {objection}\n\n" if objection is not None else ""
    return follow_up(answer, f"{critic}Is that right?")


def argument(answer: str, *, keeps: bool) -> tuple[Message, ...]:
    """Asks a member of the panel why it keeps or refuses ``answer``."""
    return follow_up(answer, f"In one sentence, why is that {'right' if keeps else 'wrong'}?")


def comparison(
    first: str, second: str, *, objection: str | None, votes: tuple[str, str] | None, analysis: str
) -> tuple[Message, ...]:
    """Asks which of two answers is right, A (``first``) or B; empty parts are left out.

    Args:
        votes: summaries of the panel's votes on each.
        analysis: which biases the judge has shown.
    """
    parts = (
        f"A critic objects: {objection}" if objection else "",
        f"A: {votes[0]}.\nB: {votes[1]}." if votes else "",
        analysis,
        "Which of the two is right, A or B?",
    )
    return follow_up(f"A: {first}\nB: {second}", "\n\n".join(part for part in parts if part))
