"""How much a turn's candidates agree, with the router's embeddings where their values do not tell."""

from collections.abc import Iterable, Sequence

from agents.shared import agreement
from bus.connection import Bus
from schemas.embedder import CompareReply, CompareRequest
from schemas.findings import Candidate

Matrix = tuple[tuple[float, ...], ...]
"""A figure for each two answers: how likely they mean the same, or the cosine of their embeddings."""


def answer_texts(candidates: Iterable[Candidate]) -> list[str]:
    """The texts by which candidates are compared.

    Every stage that compares uses these: the router embeds them ahead of the request, which must bring the same texts.
    """
    return [candidate.text.strip() for candidate in candidates]


def texts_to_embed(answers: Sequence[str], *, question: str) -> tuple[str, ...]:
    """The texts to embed for comparing ``answers``, in their order; none when their values or letters decide.

    Each follows its question: an answer of one word means little by itself.
    """
    if not agreement.needs_embedding(answers, question=question):
        return ()
    return tuple(f"{question} {answer}" for answer in answers)


class Likeness:
    """One turn's comparison; ``timeout`` is the longest wait for the embedder.

    ``compute`` are the embedder's seconds. It may have begun before the request: the router reads candidates, too.
    """

    def __init__(self, bus: Bus, *, timeout: float) -> None:
        self._bus = bus
        self._timeout = timeout
        self.compute = 0.0
        self._began_at = 0.0

    def seconds_before(self, moment: float) -> float:
        """How many of the embedder's seconds lay before ``moment`` (Unix time)."""
        return min(self.compute, max(0.0, moment - self._began_at)) if self._began_at else 0.0

    async def compare(self, answers: Sequence[str], *, question: str) -> Matrix:
        """Compare ``answers``.

        Raises:
            KikiError: the router does not answer, or refuses.
        """
        cosines: Matrix = ()
        if texts := texts_to_embed(answers, question=question):
            reply = await self._bus.request("compare", CompareRequest(texts=texts), CompareReply, timeout=self._timeout)
            self.compute += reply.compute
            self._began_at = reply.began_at
            cosines = reply.cosines
        return agreement.matrix(answers, question=question, cosine=lambda row, column: cosines[row][column])
