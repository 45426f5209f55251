"""Whether answers say the same: checked exactly where that is possible, estimated from their texts otherwise. Pure.

Numbers, yes or no, JSON and code have a value that can be compared. Everything else is compared by the cosine of the
embeddings, together with the words that each answer adds to the question: two answers to one question are always
similar, so the cosine alone says little. A logistic curve makes both numbers a probability; it is fitted on pairs of
answers that are known to mean the same or not (docs/results.md).
"""

import ast
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["number", "choice", "json", "code"]

COSINE, OVERLAP, OFFSET = 10.57, 6.02, -11.98
"""The logistic curve: the weights of the cosine and of the overlap in the logit, and the logit's offset."""

_FILLERS = (
    "a an the is are was were be of in on at to for from by with and or it its this that these those they them "
    "their we our you your i as not no so do does did has have had can will would there here what which who "
    "whom how when where why called means also just very le la les un une des du de et ou est sont dans sur il "
    "elle ce cette"
)
_EMPTY = frozenset(_FILLERS.split())
"""Words that add nothing to a question, English and French."""

_NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_SPELT = {word: number for number, word in enumerate(_WORDS.split()) if word != "one"}  # "one" is mostly a pronoun
_ASKS_NUMBER = re.compile(
    r"\bhow (?:many|much|long|far|fast|old|tall|heavy)\b|\bcombien\b|\b(?:calcul|comput|convert|add|sum|multipl|divid|"
    r"subtract|evaluat|solve|round)\w*\b|\d\s*[-+*/x×÷^%]+\s*\d|\bwhat (?:is|are|does)\b.*\d|\bpercent\b",
    re.IGNORECASE,
)
_YES = re.compile(r"\W*(yes|no|true|false|oui|non)\b", re.IGNORECASE)
_ASKS_YES = re.compile(
    r"\W*(?:is|are|was|were|do|does|did|can|could|will|would|has|have|true or|est-ce)\b", re.IGNORECASE
)
_MEANS = {"true": "yes", "oui": "yes", "false": "no", "non": "no"}
_FENCED = re.compile(r"```[ \t]*(\w*)[^\n]*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Value:
    """The part of an answer that can be compared exactly; ``canonical`` is equal for equal values."""

    kind: Kind
    canonical: str


def value(answer: str, *, question: str) -> Value | None:
    """The checkable value of ``answer``; None when it is prose, or not of the kind that ``question`` asks for."""
    blocks = _FENCED.findall(answer)
    body = blocks[0][1] if len(blocks) == 1 else answer
    if (data := _json(body)) is not None:
        return Value(kind="json", canonical=data)
    if blocks:
        return Value(kind="code", canonical="\n".join(_code(block) for _, block in blocks))
    if _ASKS_YES.match(question) and (match := _YES.match(answer)):
        word = match[1].lower()
        return Value(kind="choice", canonical=_MEANS.get(word, word))
    if _ASKS_NUMBER.search(question) and (number := final_number(answer, question=question)) is not None:
        return Value(kind="number", canonical=number)
    return None


def probability(cosine: float, overlap: float) -> float:
    """The probability that two answers to one question mean the same, 0..1.

    Args:
        cosine: of their embeddings, each of the question followed by the answer.
        overlap: share of the new words that they have in common, from :func:`overlap`.
    """
    return 1.0 / (1.0 + math.exp(-(COSINE * cosine + OVERLAP * overlap + OFFSET)))


def overlap(first: str, second: str, *, question: str) -> float:
    """The share of new words (not in ``question``) that both answers add, of the answer that adds fewer; 0..1."""
    here, there = _new_words(first, question), _new_words(second, question)
    return len(here & there) / max(1, min(len(here), len(there)))


def normalized(text: str) -> str:
    """A text without case, punctuation and spacing, so that answers that differ only in these become equal."""
    return " ".join(re.findall(r"[\w+\-*/=<>.]*\w", text.casefold()))


def compare_exactly(first: str, second: str, *, question: str) -> bool | None:
    """Whether two answers are the same, by their letters or by their values; None when neither decides."""
    if normalized(first) == normalized(second):
        return True
    here, there = value(first, question=question), value(second, question=question)
    if here is None or there is None or here.kind != there.kind:
        return None
    return here.canonical == there.canonical


def matrix(
    answers: Sequence[str], *, question: str, cosine: Callable[[int, int], float]
) -> tuple[tuple[float, ...], ...]:
    """The symmetric matrix of the probabilities that two answers mean the same, with 1.0 on the diagonal.

    Args:
        cosine: gives the cosine of two answers' embeddings by their indices; called only where values do not decide.
    """

    def pair_probability(first: int, second: int) -> float:
        verdict = compare_exactly(answers[first], answers[second], question=question)
        if verdict is not None:
            return float(verdict)
        share = overlap(answers[first], answers[second], question=question)
        return probability(cosine(first, second), share)

    indices = range(len(answers))
    upper = {(row, column): pair_probability(row, column) for row in indices for column in indices if row < column}
    return tuple(
        tuple(1.0 if row == column else upper[min(row, column), max(row, column)] for column in indices)
        for row in indices
    )


def groups(same: Sequence[Sequence[float]]) -> tuple[tuple[int, ...], ...]:
    """Indices of answers that say the same, the largest group first, then the one that begins earlier.

    Args:
        same: a :func:`matrix`. An answer joins the first group whose first member it equals more likely than not.
    """
    index_groups: list[list[int]] = []
    for index in range(len(same)):
        home = next((group for group in index_groups if same[group[0]][index] >= 0.5), None)
        if home is None:
            index_groups.append([index])
        else:
            home.append(index)
    return tuple(tuple(group) for group in sorted(index_groups, key=lambda group: (-len(group), group[0])))


def mean(same: Sequence[Sequence[float]]) -> float:
    """Mean over all pairs of a :func:`matrix`, 0..1; 1.0 for one answer, which agrees with itself."""
    pairs = [same[row][column] for row in range(len(same)) for column in range(row)]
    return math.fsum(pairs) / len(pairs) if pairs else 1.0


def needs_embedding(answers: Sequence[str], *, question: str) -> bool:
    """Whether any two answers cannot be compared exactly."""
    return any(
        compare_exactly(first, second, question=question) is None
        for index, first in enumerate(answers)
        for second in answers[index + 1 :]
    )


def numbers(text: str) -> list[str]:
    """The numbers of a text in canonical form, digits and small words alike."""
    values = []
    for match in re.finditer(rf"{_NUMBER.pattern}|(?<![\w-])(?:{'|'.join(_SPELT)})(?![\w-])", text, re.IGNORECASE):
        word = match[0].lower()
        values.append(f"{_SPELT[word]}" if word in _SPELT else f"{float(word.replace(',', '')):.10g}")
    return values


def final_number(answer: str, *, question: str) -> str | None:
    """The last number that the question does not give; the last of all when there is no other."""
    answer_numbers = numbers(answer)
    if not answer_numbers:
        return None
    question_numbers = set(numbers(question))
    return next((number for number in reversed(answer_numbers) if number not in question_numbers), answer_numbers[-1])


def _new_words(answer: str, question: str) -> set[str]:
    """The words of ``answer`` that ``question`` does not have; all words of ``answer`` when it adds none."""
    words = _words(answer)
    return words - _words(question) or words


def _words(text: str) -> set[str]:
    return {word.rstrip("s") for word in re.findall(r"[\w#+]+", text.casefold()) if word not in _EMPTY}


def _json(text: str) -> str | None:
    """A JSON object or array with sorted keys; None when the text is no JSON, or only a scalar."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return json.dumps(data, sort_keys=True) if isinstance(data, dict | list) else None


def _code(block: str) -> str:
    """Python as its syntax tree, so that comments and layout do not count; other code with single spaces."""
    try:
        return ast.dump(ast.parse(block))
    except (SyntaxError, ValueError, RecursionError):
        return " ".join(block.split())
