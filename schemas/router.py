"""Requests to the router: which domains a prompt, or the last message of a conversation, belongs to."""

from typing import Annotated

from msgspec import Meta

from schemas.base import WireStruct, refuse_non_finite
from schemas.chat import Message
from schemas.embedder import MAX_EMBED_TEXTS
from schemas.errors import InvalidInput
from schemas.findings import DomainScore


class RouteRequest(WireStruct, frozen=True, kw_only=True):
    """What to classify: ``prompts``, each by itself, or ``messages``, a conversation whose last user message is meant.

    At most ``top_k`` domains for each; ``threshold`` None takes the trained threshold.
    """

    prompts: Annotated[tuple[str, ...], Meta(max_length=MAX_EMBED_TEXTS)] = ()
    messages: tuple[Message, ...] = ()
    threshold: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=1, le=31)] = 4

    def __post_init__(self) -> None:
        refuse_non_finite(threshold=self.threshold)
        if bool(self.prompts) == bool(self.messages):
            raise InvalidInput("send either 'prompts' or 'messages'.", param="prompts")
        if self.messages and not any(message.role == "user" for message in self.messages):
            raise InvalidInput("the conversation has no message of a user: send one to route.", param="messages")


class RoutedDomain(DomainScore, frozen=True, kw_only=True):
    """A router output above the threshold; ``niche`` is the one of its niche domains (35 in all) that is meant."""

    niche: str


class RoutedPrompt(WireStruct, frozen=True, kw_only=True):
    """Domains above the threshold in descending order of score; none means that the base model answers."""

    domains: tuple[RoutedDomain, ...]


class RouteReply(WireStruct, frozen=True, kw_only=True):
    """One result for each prompt, in order, or the one of the conversation."""

    results: tuple[RoutedPrompt, ...]
