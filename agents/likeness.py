"""How much a turn's candidates agree, with the router's embeddings where their values do not tell."""

from collections.abc import Sequence

from agents import agreement
from bus.connection import Bus
from schemas.services import CompareReply, CompareRequest

Matrix = tuple[tuple[float, ...], ...]
"""A figure for each two answers: how likely they mean the same, or the cosine of their embeddings."""


class Likeness:
    """One turn's comparison; ``compute`` is the embedder's time in seconds, ``timeout`` the longest wait for it."""

    def __init__(self, bus: Bus, *, timeout: float) -> None:
        self._bus = bus
        self._timeout = timeout
        self.compute = 0.0

    async def of(self, answers: Sequence[str], *, question: str) -> Matrix:
        """Compare ``answers``; nothing is embedded when their values, or their letters, decide.

        Raises:
            KikiError: the router does not answer, or refuses.
        """
        cosines: Matrix = ()
        if agreement.needs_embedding(answers, question=question):
            cosines = await self._cosines(answers, question)
        return agreement.matrix(answers, question=question, cosine=lambda one, other: cosines[one][other])

    async def _cosines(self, answers: Sequence[str], question: str) -> Matrix:
        """Each answer is embedded after its question: an answer of one word means little by itself."""
        request = CompareRequest(texts=tuple(f"{question} {answer}" for answer in answers))
        reply = await self._bus.request("compare", request, CompareReply, timeout=self._timeout)
        self.compute += reply.compute
        return reply.cosines
