"""A case as a judge reads it: the question, what is to be judged, and the one thing that is asked, in this order.

What is asked comes last, so that several things asked of one case share the processed beginning of their prompts.
"""

from agents.calibration import BLANK
from schemas.chat import Message


def case(judge: str, question: str, *exhibits: tuple[str, str], ask: str) -> tuple[Message, ...]:
    """The prompt of a case.

    Args:
        judge: who judges, for the system role.
        exhibits: headings and texts, in the order shown.
        ask: what the judge is to do or to say.
    """
    shown = "\n\n".join(f"{heading}:\n{text}" for heading, text in (("Question", question), *exhibits))
    return (Message(role="system", content=judge), Message(role="user", content=f"{shown}\n\n{ask}"))


def blank(judge: str, *headings: str, ask: str) -> tuple[Message, ...]:
    """The same case with nothing in it, for the judge's habits (:mod:`agents.calibration`)."""
    return case(judge, BLANK, *((heading, BLANK) for heading in headings), ask=ask)
