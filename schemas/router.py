"""Requests to the router: which domains a prompt belongs to."""

from typing import Annotated

from msgspec import Meta

from schemas.base import WireStruct, refuse_non_finite
from schemas.embedder import MAX_EMBED_TEXTS
from schemas.findings import DomainScore


class RouteRequest(WireStruct, frozen=True, kw_only=True):
    """Prompts to classify, at most ``top_k`` domains each; ``threshold`` None takes the trained threshold."""

    prompts: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_EMBED_TEXTS)]
    threshold: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=1, le=31)] = 4

    def __post_init__(self) -> None:
        refuse_non_finite(threshold=self.threshold)


class RoutedDomain(DomainScore, frozen=True, kw_only=True):
    """A router output above the threshold; ``niche`` is the one of its niche domains (35 in all) that is meant."""

    niche: str


class RoutedPrompt(WireStruct, frozen=True, kw_only=True):
    """Domains above the threshold in descending order of score; none means that the base model answers."""

    domains: tuple[RoutedDomain, ...]


class RouteReply(WireStruct, frozen=True, kw_only=True):
    """One result for each prompt, in order."""

    results: tuple[RoutedPrompt, ...]
