"""Questions with checkable answers."""

import json
import math
import re
from functools import cache
from typing import Any

import msgspec

from agents.shared import agreement
from runtime.bench.harness import read_data


class CheckableQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question of ``data/questions.jsonl`` with one of four ways to check an answer.

    The answer's final number must be ``number``; or it must hold one of ``words``, or ``exactly`` in the same case; or
    its first JSON must equal ``value``.
    """

    id: str
    kind: str
    question: str
    number: float | None = None
    words: tuple[str, ...] = ()
    exactly: str | None = None
    value: Any = msgspec.field(default=msgspec.UNSET, name="json")

    def is_right(self, answer: str) -> bool:
        """Whether ``answer`` is right."""
        if self.number is not None:
            result = agreement.final_number(answer, question=self.question)
            return result is not None and math.isclose(float(result), self.number)
        if self.exactly is not None:
            return _contains_word(answer, self.exactly, flags=0)
        if self.words:
            return any(_contains_word(answer, word, flags=re.IGNORECASE) for word in self.words)
        return bool(_first_json(answer) == self.value)


def _contains_word(answer: str, word: str, *, flags: int) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", answer, flags) is not None


def _first_json(answer: str) -> Any:
    """The first JSON object or list in a text; NaN, which equals nothing, when there is none."""
    start = re.search(r"[{\[]", answer)
    try:
        return json.JSONDecoder().raw_decode(answer[start.start() :])[0] if start else math.nan
    except ValueError:
        return math.nan


@cache
def questions() -> tuple[CheckableQuestion, ...]:
    """All questions. Their kinds alternate, so that the first few are of every kind."""
    return read_data("questions", CheckableQuestion)
