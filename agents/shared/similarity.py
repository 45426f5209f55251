"""How much a turn's candidates agree, with the router's embeddings where their values do not tell."""

from collections.abc import Iterable, Sequence

from agents.shared import agreement
from bus.connection import Bus
from schemas.embedder import CompareReply, CompareRequest
from schemas.findings import Candidate

Matrix = tuple[tuple[float, ...], ...]
"""A figure for each two answers: how likely they mean the same, or the cosine of their embeddings."""


def said(candidates: Iterable[Candidate]) -> list[str]:
    """What is compared of candidates, by all who do; the router embeds it before they ask and has to meet it."""
    return [candidate.text.strip() for candidate in candidates]


def embedded(answers: Sequence[str], *, question: str) -> tuple[str, ...]:
    """What is embedded to compare ``answers``, in their order; nothing when their values, or their letters, decide.

    Each follows its question: an answer of one word means little by itself.
    """
    if not agreement.needs_embedding(answers, question=question):
        return ()
    return tuple(f"{question} {answer}" for answer in answers)


class Likeness:
    """One turn's comparison; ``timeout`` is the longest wait for the embedder.

    ``compute`` are the embedder's seconds; it may have begun before it was asked, as the router hears candidates, too.
    """

    def __init__(self, bus: Bus, *, timeout: float) -> None:
        self._bus = bus
        self._timeout = timeout
        self.compute = 0.0
        self._began_at = 0.0

    def ahead(self, moment: float) -> float:
        """How many of the embedder's seconds lay before ``moment`` (Unix time)."""
        return min(self.compute, max(0.0, moment - self._began_at)) if self._began_at else 0.0

    async def of(self, answers: Sequence[str], *, question: str) -> Matrix:
        """Compare ``answers``.

        Raises:
            KikiError: the router does not answer, or refuses.
        """
        cosines: Matrix = ()
        if texts := embedded(answers, question=question):
            reply = await self._bus.request("compare", CompareRequest(texts=texts), CompareReply, timeout=self._timeout)
            self.compute += reply.compute
            self._began_at = reply.began_at
            cosines = reply.cosines
        return agreement.matrix(answers, question=question, cosine=lambda one, other: cosines[one][other])
