"""How much a turn's candidates agree, with the router's embeddings where their values do not tell."""

import math
from collections.abc import Sequence

from agents import agreement
from bus.connection import Bus
from schemas.services import EmbedReply, EmbedRequest

Matrix = tuple[tuple[float, ...], ...]
"""Probability that each two answers mean the same."""


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
        vectors: dict[str, tuple[float, ...]] = {}
        if agreement.needs_embedding(answers, question=question):
            vectors = await self._embedded(tuple(dict.fromkeys(answers)), question)

        def cosine(one: int, other: int) -> float:
            pair = zip(vectors[answers[one]], vectors[answers[other]], strict=True)
            return math.fsum(a * b for a, b in pair)

        return agreement.matrix(answers, question=question, cosine=cosine)

    async def _embedded(self, answers: tuple[str, ...], question: str) -> dict[str, tuple[float, ...]]:
        """Unit vectors of the answers, each after its question: an answer of one word means little by itself."""
        texts = tuple(f"{question} {answer}" for answer in answers)
        reply = await self._bus.request("embed", EmbedRequest(texts=texts), EmbedReply, timeout=self._timeout)
        self.compute += reply.compute
        return dict(zip(answers, reply.vectors, strict=True))
