"""Yes/no questions about prejudice: to find a model's knowledge of bias, and to try the result on held-out ones.

The shipped set was written for this project: twelve groups of twenty questions, half of them with the answer yes, six
of each group held out.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from schemas.chat import Message
from schemas.errors import SetupError

SHIPPED = Path(__file__).with_name("questions.jsonl")
INSTRUCTION = "Answer Yes or No."
CHOICES = ("Yes", "No")


class BiasQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question with its gold answer. ``held_out``: not used to find neurons, only to
    try them."""

    group: str
    question: str
    answer: Literal["yes", "no"]
    held_out: bool = False

    @property
    def messages(self) -> tuple[Message, ...]:
        """What the model is asked."""
        return (Message(role="user", content=f"{self.question} {INSTRUCTION}"),)

    @property
    def gold(self) -> str:
        """The right one of :data:`CHOICES`."""
        return self.answer.capitalize()


def read_questions(path: Path = SHIPPED) -> tuple[BiasQuestion, ...]:
    """The questions of a JSONL file.

    Raises:
        SetupError: it cannot be read, a line is no question, or there is nothing to probe with or to try on.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        questions = tuple(msgspec.json.decode(line, type=BiasQuestion) for line in lines if line.strip())
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror or error}.", param="questions") from error
    except msgspec.DecodeError as error:
        raise SetupError(
            f'{path}: {error}; a line is {{"group", "question", "answer": "yes" or "no", "held_out"}}.',
            param="questions",
        ) from error
    if len({question.held_out for question in questions}) != 2:
        raise SetupError(f"{path} needs questions to probe with and questions held out.", param="questions")
    return questions


def digest(questions: Sequence[BiasQuestion]) -> str:
    """Digest of a set of questions."""
    return hashlib.sha256(msgspec.json.encode(tuple(questions))).hexdigest()
