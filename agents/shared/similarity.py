"""How much a turn's candidates agree, by embeddings where :mod:`.agreement` needs them; compared once in each turn."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import anyio

from agents.shared import agreement
from bus.connection import Bus
from schemas.calls import COMPARE
from schemas.embedder import CompareRequest
from schemas.findings import Candidate

Matrix = tuple[tuple[float, ...], ...]
"""A number for each two answers: the probability that they mean the same, or the cosine of their embeddings."""


def answer_texts(candidates: Iterable[Candidate]) -> list[str]:
    """The texts by which candidates are compared.

    Every stage that compares uses these texts: the embedder embeds them before a stage asks for their comparison, and
    its cache finds them only when the request holds the same texts.
    """
    return [candidate.text.strip() for candidate in candidates]


def texts_to_embed(answers: Sequence[str], *, question: str) -> tuple[str, ...]:
    """The texts to embed for comparing ``answers``, in their order; none when every two can be compared exactly.

    Each text is the question followed by the answer, because an answer of one word means little by itself.
    """
    if not agreement.needs_embedding(answers, question=question):
        return ()
    return tuple(f"{question} {answer}" for answer in answers)


MAX_COMPARISONS = 64
"""Comparisons kept for each bus: enough for the turns that run, and some more."""

_Key = tuple[str, str, tuple[str, ...]]
"""A turn's id, its question, and the answers."""


@dataclass
class _Comparison:
    """One comparison. ``same`` is None until the first stage that needs it, holding the lock, has made it."""

    same: Matrix | None = None
    lock: anyio.Lock = field(default_factory=lambda: anyio.Lock(fast_acquire=True))


_comparisons_by_bus: "WeakKeyDictionary[Bus, OrderedDict[_Key, _Comparison]]" = WeakKeyDictionary()


def _find_comparison(bus: Bus, key: _Key) -> _Comparison:
    comparisons = _comparisons_by_bus.setdefault(bus, OrderedDict())
    comparison = comparisons.setdefault(key, _Comparison())
    comparisons.move_to_end(key)
    if len(comparisons) > MAX_COMPARISONS:
        comparisons.popitem(last=False)
    return comparison


class Likeness:
    """Compares a turn's answers for one stage; ``timeout`` is the longest wait for the embedder in seconds.

    Stages of one process share the comparison: the first that needs it makes it, and a second one waits for it and
    reads it. If the first stage fails, the next one tries. ``compute`` are the embedder's seconds; only the stage that
    asked the embedder has them. The embedder may have begun before the request, because it reads candidates itself.
    """

    def __init__(self, bus: Bus, turn_id: str, *, timeout: float) -> None:
        self._bus = bus
        self._turn_id = turn_id
        self._timeout = timeout
        self.compute = 0.0
        self._began_at = 0.0

    def seconds_before(self, moment: float) -> float:
        """How many of the embedder's seconds lay before ``moment`` (Unix time)."""
        return min(self.compute, max(0.0, moment - self._began_at)) if self._began_at else 0.0

    async def compare(self, answers: Sequence[str], *, question: str) -> Matrix:
        """The probabilities that each two of ``answers`` mean the same.

        Raises:
            KikiError: the embedder does not answer, or refuses.
        """
        comparison = _find_comparison(self._bus, (self._turn_id, question, tuple(answers)))
        async with comparison.lock:
            if comparison.same is None:
                comparison.same = await self._compare(answers, question=question)
            return comparison.same

    async def _compare(self, answers: Sequence[str], *, question: str) -> Matrix:
        cosines: Matrix = ()
        if texts := texts_to_embed(answers, question=question):
            reply = await self._bus.request(COMPARE, CompareRequest(texts=texts), timeout=self._timeout)
            self.compute += reply.compute
            self._began_at = reply.began_at
            cosines = reply.cosines
        return agreement.matrix(answers, question=question, cosine=lambda row, column: cosines[row][column])
