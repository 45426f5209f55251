"""Requests of the router: which domains a prompt belongs to."""

from typing import Annotated

from msgspec import Meta

from schemas.base import WireStruct
from schemas.embedder import MAX_EMBED_TEXTS
from schemas.findings import DomainScore


class RouteRequest(WireStruct, frozen=True, kw_only=True):
    """Prompts to classify; ``threshold`` None takes the trained one."""

    prompts: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_EMBED_TEXTS)]
    threshold: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=1, le=31)] = 4


class RoutedDomain(DomainScore, frozen=True, kw_only=True):
    """A router output above the threshold, and ``niche``: the one of the 35 domains that is meant inside it."""

    niche: str


class RoutedPrompt(WireStruct, frozen=True, kw_only=True):
    """Domains above the threshold in descending score; none means base."""

    domains: tuple[RoutedDomain, ...]


class RouteReply(WireStruct, frozen=True, kw_only=True):
    """One finding a prompt, in order."""

    results: tuple[RoutedPrompt, ...]
