"""The prompt with which the catfish asks the model for an objection."""

from collections.abc import Sequence

from agents.catfish.engagement import Tone
from schemas.chat import Message

MANNER: dict[Tone, str] = {
    "mild": "The answers differ already. Politely name the one point that still needs checking.",
    "firm": "The answers mostly agree. Firmly name the weakest point that they share.",
    "strong": "The answers all agree, which may be mere habit. Challenge them: name what is most likely wrong.",
}
"""How to object, by tone."""


def objection(question: str, answers: Sequence[str], tone: Tone) -> tuple[Message, ...]:
    """Asks for a short objection to ``answers``; it must criticise and not answer."""
    answer_list = "\n\n".join(f"Answer {number}:\n{answer}" for number, answer in enumerate(answers, start=1))
    return (
        Message(role="system", content="You are a critic. You object to answers; you never answer the question."),
        Message(
            role="user",
            content=f"Question:\n{question}\n\n{answer_list}\n\n{MANNER[tone]} One or two sentences.",
        ),
    )
