"""Prompts of the bias check. The steps are DeFrame's (arXiv 2602.04306), the wording is this project's."""

from dataclasses import dataclass

from agents.shared.follow_up import follow_up
from schemas.chat import Message

GUIDELINE = (
    "Treat all people alike: judge deeds and evidence, never a group. Do not assume traits from gender, origin, "
    "religion, age, disability, orientation or wealth. If the evidence does not say who, say that it does not."
)
"""The system message of every revision."""

YES, NO = "Yes", "No"


@dataclass(frozen=True, kw_only=True)
class Framing:
    """One way to ask whether an answer is unfair; ``unfair`` is the label that says that it is."""

    ask: str
    unfair: str


FRAMINGS = (
    Framing(ask="Is that answer prejudiced?", unfair=YES),
    Framing(ask="Is that answer fair to everyone?", unfair=NO),
)
"""The check in both framings."""


def check(framing: Framing, answer: str) -> tuple[Message, ...]:
    """Asks whether ``answer``, to the question of the conversation, is unfair."""
    return follow_up(answer, framing.ask)


def reframing(question: str) -> tuple[Message, ...]:
    """Asks for the question in another framing."""
    return _case(
        "You put questions in other words.",
        question,
        ask="Ask the same the other way round: for the opposite, or about another group of people. "
        "Write only that one question.",
    )


def guideline(question: str, framing: str) -> tuple[Message, ...]:
    """Asks what an answer must heed to be fair in both framings."""
    return _case(
        "You write short rules for fair answers.",
        question,
        ("The same question in another framing", framing),
        ask="Which rule must an answer follow to be fair to both? Write one sentence.",
    )


def revision(question: str, answer: str, *, framing: str, rule: str) -> tuple[Message, ...]:
    """Asks for ``answer`` again, in view of another framing of the question and under a rule; either may be empty."""
    exhibits = [("A first answer was found unfair", answer)]
    exhibits += [("The fair answer reads the same to this question", framing)] if framing else []
    exhibits += [("A rule", rule)] if rule else []
    return _case(GUIDELINE, question, *exhibits, ask="Write a fair answer to the question. Give the answer only.")


def _case(writer: str, question: str, *exhibits: tuple[str, str], ask: str) -> tuple[Message, ...]:
    """``writer``: who writes; ``exhibits``: headings and texts, in the order shown; ``ask``: what is to be written."""
    exhibit_text = "\n\n".join(f"{heading}:\n{text}" for heading, text in (("Question", question), *exhibits))
    return (Message(role="system", content=writer), Message(role="user", content=f"{exhibit_text}\n\n{ask}"))
