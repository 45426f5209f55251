"""What each route takes and gives, beside the parameters that FastAPI knows. A route that is not here fails a test."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from runtime.facade.chat.messages import SentMessage
from runtime.facade.chat.request import REFUSED, ChatRequest
from runtime.facade.chat.tools import EchoedCall, OfferedTool, ToolChoice
from runtime.facade.openapi import replies, serving
from runtime.facade.openapi.refusals import OF_AGENTS, OF_TURNS
from runtime.facade.routes import adapters, chat, embeddings, health, metrics, models, route, sessions, turns
from runtime.facade.routes.embeddings import MAX_INPUTS, EmbeddingsBody


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What a route takes and gives.

    Attributes:
        body: the struct of its JSON body.
        reply: the struct of its JSON reply, or several of which it is one.
        text: the media type of a reply that is no JSON.
        events: what the events of a stream are, where the client may ask for one.
        errors: codes of its refusals beside those that all routes, all bodies and all keys have.
    """

    body: type[Struct] | None = None
    reply: tuple[type[Struct], ...] = ()
    text: str = ""
    events: str = ""
    errors: tuple[str, ...] = ()

    @property
    def is_turn(self) -> bool:
        """Whether it asks the runtime for an answer, plain or streamed."""
        return bool(self.events)


class ContentPart(Struct, frozen=True, kw_only=True):
    """A part of a message's content: a text, or what a client echoes of an earlier answer's reasoning."""

    type: Literal["text", "input_text", "output_text", "refusal", "thinking", "redacted_thinking", "reasoning"] = "text"
    text: str | UnsetType = UNSET
    refusal: str | UnsetType = UNSET


OPERATIONS: dict[Callable[..., Any], Operation] = {
    chat.chat_completions: Operation(
        body=ChatRequest,
        reply=(replies.ChatReply,),
        events="Each `data` is a `chat.completion.chunk`, the last one is `[DONE]`. An error after the beginning is a "
        "`data` with `error`, and nothing follows it. Lines that begin with a colon are comments.",
        errors=OF_TURNS,
    ),
    embeddings.create_embeddings: Operation(
        body=EmbeddingsBody,
        reply=(replies.EmbeddingList,),
        errors=("model_not_found", "context_length_exceeded", *OF_AGENTS),
    ),
    models.list_models: Operation(reply=(replies.ModelList,)),
    models.show_model: Operation(reply=(replies.ModelEntry,), errors=("model_not_found",)),
    route.classify_prompt: Operation(
        body=route.RouteBody,
        reply=(replies.QueriedDomains, replies.PromptedDomains),
        errors=("unprocessable", *OF_AGENTS),
    ),
    sessions.show_session: Operation(reply=(replies.RememberedSession,), errors=("session_not_found", *OF_AGENTS)),
    sessions.forget_session: Operation(reply=(replies.ForgottenSession,), errors=OF_AGENTS),
    sessions.forget_user: Operation(reply=(replies.ForgottenUser,), errors=OF_AGENTS),
    sessions.search_episodes: Operation(reply=(replies.FoundEpisodes,), errors=OF_AGENTS),
    turns.show_turn: Operation(reply=(replies.StoredTurn,), errors=("turn_not_found", *OF_AGENTS)),
    adapters.list_adapters: Operation(reply=(replies.AdapterList,), errors=OF_AGENTS),
    adapters.apply_verb: Operation(
        reply=(replies.AdapterEntry,), errors=("adapter_not_found", "adapter_failed", *OF_AGENTS)
    ),
    health.report_health: Operation(reply=(replies.Health,)),
    health.report_readiness: Operation(reply=(replies.Readiness,), errors=OF_AGENTS),
    health.report_status: Operation(reply=(replies.Status,)),
    metrics.expose_metrics: Operation(text="text/plain"),
    serving.show_document: Operation(text="application/json"),
}
"""By the routes' functions, whose docstrings are the summaries."""

FIELDS: dict[tuple[type[Struct], str], Any] = {
    (ChatRequest, "tools"): list[OfferedTool] | None,
    (ChatRequest, "tool_choice"): Literal["none", "auto", "required"] | ToolChoice | None,
    (EmbeddingsBody, "input"): str | Annotated[list[str], Meta(min_length=1, max_length=MAX_INPUTS)],
    (EmbeddingsBody, "user"): str | None,
    (SentMessage, "role"): Literal["system", "developer", "user", "assistant", "tool"],
    (SentMessage, "content"): str | list[ContentPart] | None,
    (SentMessage, "tool_calls"): list[EchoedCall] | None,
    (SentMessage, "audio"): None,
    (SentMessage, "function_call"): None,
}
"""The types of fields that a route reads later than the body, so that its errors can name their place."""

UNSERVED = {(ChatRequest, name): values for name, values in REFUSED.items()}
"""Fields that are refused unless they have one of these values."""
