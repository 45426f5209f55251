"""What the negotiator asks the model."""

from agents.case import blank, case
from schemas.chat import Message

PANEL = "You sit on a panel that checks answers."
CRITIC = "A critic objects"
VOTE = "Vote with one word: KEEP if the answer is right, REFUSE if it is wrong, NEUTRAL if you cannot tell."
COMPARE = "Which answer is better supported? Reply with one letter: A or B."


def ballot(question: str, answer: str, *, objection: str | None) -> tuple[Message, ...]:
    """Asks for one label on ``answer``. The objection of a critic, when there is one, is read before voting."""
    return case(PANEL, question, ("Answer", answer), *_heard(objection), ask=VOTE)


def blank_ballot(*, objection: bool) -> tuple[Message, ...]:
    """The ballot with nothing in it, for the habit of each label."""
    return blank(PANEL, "Answer", *((CRITIC,) if objection else ()), ask=VOTE)


def comparison(question: str, first: str, second: str, *, objection: str | None) -> tuple[Message, ...]:
    """Asks which of two answers is better, A (``first``) or B."""
    return case(PANEL, question, ("Answer A", first), ("Answer B", second), *_heard(objection), ask=COMPARE)


def _heard(objection: str | None) -> tuple[tuple[str, str], ...]:
    return ((CRITIC, objection),) if objection is not None else ()
