"""Asks the embedder for the vectors of many texts, in parts: the texts of turns that are routed get in between."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import anyio

from bus.connection import Bus
from schemas.calls import EMBED
from schemas.embedder import EmbedReply, EmbedRequest
from schemas.errors import InvalidInput

PART_TEXTS = 32
"""Texts of one request to the embedder, which embeds so many in one batch."""

PART_CHARACTERS = 400_000
"""Characters of one request to the embedder: in every encoding less than a message of the broker holds."""

PARTS_AT_ONCE = 2
"""Requests of this facade to the embedder at the same time: one is worked on while the next one is on its way."""


@dataclass(frozen=True)
class EmbeddedTexts:
    """Unit vectors of texts, in their order, and the tokens of all of them together."""

    vectors: list[tuple[float, ...]]
    tokens: int


class EmbedderClient:
    """The embedder behind ``/v1/embeddings``; ``timeout`` are the seconds that it has for one part of a request."""

    def __init__(self, bus: Bus, *, timeout: float) -> None:
        self._bus = bus
        self._timeout = timeout
        self._turn = anyio.Semaphore(PARTS_AT_ONCE)

    async def embed(self, texts: Sequence[str], *, dimensions: float | None = None) -> EmbeddedTexts:
        """The vectors of texts. Those of several callers take turns, a part each.

        Raises:
            InvalidInput: a text is longer than what the model reads, or its vectors have other ``dimensions``.
            KikiError: the embedder is away, or refuses.
        """
        vectors: list[tuple[float, ...]] = []
        tokens: list[int] = []
        for part in _split(texts):
            async with self._turn:
                reply = await self._bus.request(EMBED, EmbedRequest(texts=part), timeout=self._timeout)
            _check_dimensions(reply, dimensions)
            vectors += reply.vectors
            tokens += reply.tokens
            _check_lengths(tokens, reply.max_tokens, of=texts)
        return EmbeddedTexts(vectors, sum(tokens))


def name_input(place: int, *, of: Sequence[object]) -> str:
    """What a refusal calls one of several inputs."""
    return f"input[{place}]" if len(of) > 1 else "input"


def _split(texts: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The texts in parts that the embedder takes.

    Raises:
        InvalidInput: one text alone is too long for that.
    """
    start, characters = 0, 0
    for place, text in enumerate(texts):
        if len(text) > PART_CHARACTERS:
            length = f"{len(text)} characters, far more than this model's maximum context length"
            raise _refuse_length(name_input(place, of=texts), length)
        if place - start == PART_TEXTS or characters + len(text) > PART_CHARACTERS:
            yield tuple(texts[start:place])
            start, characters = place, 0
        characters += len(text)
    yield tuple(texts[start:])


def _check_lengths(tokens: Sequence[int], most: int, *, of: Sequence[str]) -> None:
    """Raise on the first text that the embedder has cut: its vector would stand for its beginning alone.

    ``most`` is 0 when the embedder does not say how much it reads.
    """
    for place, count in enumerate(tokens):
        if 0 < most < count:
            length = f"{count} tokens or more, and this model's maximum context length is {most} tokens"
            raise _refuse_length(name_input(place, of=of), length)


def _refuse_length(param: str, length: str) -> InvalidInput:
    return InvalidInput(f"'{param}' has {length}: split it.", code="context_length_exceeded", param=param)


def _check_dimensions(reply: EmbedReply, dimensions: float | None) -> None:
    width = len(reply.vectors[0])
    if dimensions is not None and dimensions != width:
        raise InvalidInput(
            f"'dimensions' is {dimensions:g}, and this model's vectors have {width}: leave it out.", param="dimensions"
        )
