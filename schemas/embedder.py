"""Requests of the embedder: texts to vectors, and how alike texts are."""

from typing import Annotated

from msgspec import Meta

from schemas.base import WireStruct

MAX_EMBED_TEXTS = 256
"""Texts in one embedding request."""


class EmbedRequest(WireStruct, frozen=True, kw_only=True):
    """Texts to embed."""

    texts: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_EMBED_TEXTS)]


class EmbedReply(WireStruct, frozen=True, kw_only=True):
    """One unit vector a text, in order."""

    vectors: tuple[tuple[float, ...], ...]
    compute: float


class CompareRequest(WireStruct, frozen=True, kw_only=True):
    """Texts to compare by their embeddings."""

    texts: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_EMBED_TEXTS)]


class CompareReply(WireStruct, frozen=True, kw_only=True):
    """``cosines[i][j]`` of the i-th and the j-th text, -1..1, and the seconds of the embedder that they waited for.

    It began with them at ``began_at`` (Unix time, 0 when it had them), which may be before they were asked for.
    """

    cosines: tuple[tuple[float, ...], ...]
    compute: float
    began_at: float = 0.0
