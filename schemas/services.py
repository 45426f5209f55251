"""Requests that agents answer directly (NATS request-reply, discoverable as micro services)."""

from typing import Annotated

from msgspec import Meta, Struct

from schemas.envelope import SESSION_PATTERN, TENANT_PATTERN
from schemas.stages import DomainScore, RecalledEpisode

MAX_EMBED_TEXTS = 256
"""Texts in one embedding request."""


class _Wire(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class EmbedRequest(_Wire, frozen=True, kw_only=True):
    """Texts to embed with the router's model."""

    texts: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_EMBED_TEXTS)]


class EmbedReply(_Wire, frozen=True, kw_only=True):
    """One unit vector a text, in order."""

    vectors: tuple[tuple[float, ...], ...]
    compute: float


class RouteRequest(_Wire, frozen=True, kw_only=True):
    """Prompts to classify; ``threshold`` None takes the trained one."""

    prompts: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_EMBED_TEXTS)]
    threshold: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=1, le=31)] = 4


class RoutedPrompt(_Wire, frozen=True, kw_only=True):
    """Domains above the threshold in descending score; none means base."""

    domains: tuple[DomainScore, ...]


class RouteReply(_Wire, frozen=True, kw_only=True):
    """One finding a prompt, in order."""

    results: tuple[RoutedPrompt, ...]


class SearchRequest(_Wire, frozen=True, kw_only=True):
    """The tenant's episodes nearest to a query: ``text`` and ``vector``, its embedding.

    In one session when it is given; ``as_of`` (Unix time) asks what was known then.
    """

    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)]
    vector: Annotated[tuple[float, ...], Meta(min_length=1, max_length=8192)]
    text: str = ""
    as_of: float | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 10
    session_id: Annotated[str, Meta(pattern=SESSION_PATTERN)] | None = None


class SearchReply(_Wire, frozen=True, kw_only=True):
    """Hits in descending order of score; no relevance floor and no budget is applied."""

    hits: tuple[RecalledEpisode, ...]


class RebuildRequest(_Wire, frozen=True, kw_only=True):
    """Make the memory's stores again from the record."""


class RebuildReply(_Wire, frozen=True, kw_only=True):
    """``episodes`` are in the stores now; it took ``seconds``."""

    episodes: int
    seconds: float


class StatusReply(_Wire, frozen=True, kw_only=True):
    """An agent's health: whether it can take work, and its gauges (counts, bytes, seconds)."""

    agent: str
    ready: bool
    detail: str = ""
    gauges: dict[str, float] = {}
    info: dict[str, str] = {}


class ServiceError(_Wire, frozen=True, kw_only=True):
    """The reply when a request cannot be answered."""

    code: str
    message: str
    param: str | None = None


class DeadLetter(_Wire, frozen=True, kw_only=True):
    """A message that was given up, with all it takes to look at it and to replay it.

    ``payload`` is the original body (base64 on the wire, bytes in Python); ``subject`` where it was.
    """

    subject: str
    stream: str
    consumer: str
    reason: str
    deliveries: int
    headers: dict[str, str]
    payload: bytes
    failed_at: float
