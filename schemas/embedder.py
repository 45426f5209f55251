"""Requests to the embedder: texts to vectors, and how similar texts are."""

from typing import Annotated

from msgspec import Meta

from schemas.base import Integer, WireStruct

MAX_EMBED_TEXTS = 256
"""Texts in one embedding request."""


class EmbedRequest(WireStruct, frozen=True, kw_only=True):
    """Texts to embed."""

    texts: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_EMBED_TEXTS)]


class EmbedReply(WireStruct, frozen=True, kw_only=True):
    """One unit vector for each text, in order; ``compute`` are the seconds of the passes that they waited for.

    ``tokens`` are those of each text. One with more than ``max_tokens`` was cut: its vector stands for its beginning.
    """

    vectors: tuple[tuple[float, ...], ...]
    compute: float
    tokens: tuple[Integer, ...] = ()
    max_tokens: Integer = 0


class CompareRequest(WireStruct, frozen=True, kw_only=True):
    """Texts to compare by their embeddings."""

    texts: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_EMBED_TEXTS)]


class CompareReply(WireStruct, frozen=True, kw_only=True):
    """``cosines[i][j]`` is the cosine of the i-th and the j-th text, -1..1.

    ``compute`` are the embedder's seconds that the request waited for. The embedder began with the texts at
    ``began_at`` (Unix time; 0 when all were cached), which may be before the request came.
    """

    cosines: tuple[tuple[float, ...], ...]
    compute: float
    began_at: float = 0.0
