"""What the negotiator asks the model."""

from agents.calibration import BLANK
from schemas.chat import Message

PANEL = "You sit on a panel that checks answers."


def ballot(question: str, answer: str, *, objection: str | None) -> tuple[Message, ...]:
    """Asks for one label on ``answer``. The objection of a critic, when there is one, is read before voting."""
    critic = f"\n\nA critic objects:\n{objection}" if objection is not None else ""
    return (
        Message(role="system", content=PANEL),
        Message(
            role="user",
            content=f"Question:\n{question}\n\nAnswer:\n{answer}{critic}\n\n"
            "Vote with one word: KEEP if the answer is right, REFUSE if it is wrong, NEUTRAL if you cannot tell.",
        ),
    )


def blank_ballot(*, objection: bool) -> tuple[Message, ...]:
    """The ballot with nothing in it, for the habit of each label."""
    return ballot(BLANK, BLANK, objection=BLANK if objection else None)


def comparison(question: str, first: str, second: str, *, objection: str | None) -> tuple[Message, ...]:
    """Asks which of two answers is better, A (``first``) or B."""
    critic = f"\n\nA critic objects:\n{objection}" if objection is not None else ""
    return (
        Message(role="system", content=PANEL),
        Message(
            role="user",
            content=f"Question:\n{question}\n\nAnswer A:\n{first}\n\nAnswer B:\n{second}{critic}\n\n"
            "Which answer is better supported? Reply with one letter: A or B.",
        ),
    )
