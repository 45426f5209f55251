"""What each route takes and gives, beside the parameters that FastAPI knows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msgspec import Struct

from runtime.facade.chat.request import ChatRequest
from runtime.facade.completions.request import CompletionRequest
from runtime.facade.messages.request import CountedMessages, MessagesRequest
from runtime.facade.openapi import replies, serving
from runtime.facade.openapi.refusals import OF_AGENTS, OF_RESPONSES, OF_TURNS
from runtime.facade.responses.request import ResponseRequest
from runtime.facade.routes import (
    adapters,
    chat,
    completions,
    embeddings,
    health,
    messages,
    metrics,
    models,
    responses,
    route,
    sessions,
    turns,
)
from runtime.facade.routes.embeddings import EmbeddingsBody
from runtime.facade.routes.route import RouteBody


@dataclass(frozen=True, kw_only=True)
class Operation:
    """What a route takes and gives.

    Attributes:
        body: the struct of its JSON body.
        reply: the struct of its JSON reply, or several of which it is one.
        text: the media type of a reply that is no JSON of a struct.
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


COMMENTS = "Lines that begin with a colon are comments. An error after the beginning is the last event."
CHUNKS = f"Each `data` is a chunk, a `%s`; the last one is `[DONE]`. {COMMENTS}"
EVENTS = f"Each event has its name, as the `type` in its `data`: %s. {COMMENTS}"

OPERATIONS: dict[Callable[..., Any], Operation] = {
    chat.chat_completions: Operation(
        body=ChatRequest, reply=(replies.ChatReply,), events=CHUNKS % "chat.completion.chunk", errors=OF_TURNS
    ),
    completions.create_completion: Operation(
        body=CompletionRequest, reply=(replies.CompletionReply,), events=CHUNKS % "text_completion", errors=OF_TURNS
    ),
    responses.create_response: Operation(
        body=ResponseRequest,
        reply=(replies.ResponseReply,),
        events=EVENTS % "response.created, response.in_progress, for each item response.output_item.added, the events "
        "of its content and response.output_item.done, at the end response.completed or response.incomplete, or an "
        "error and response.failed",
        errors=("previous_response_not_found", *OF_RESPONSES, *OF_TURNS),
    ),
    responses.show_response: Operation(reply=(replies.ResponseReply,), errors=OF_RESPONSES),
    responses.list_input_items: Operation(reply=(replies.ItemList,), errors=OF_RESPONSES),
    responses.delete_response: Operation(reply=(replies.DeletedResponse,), errors=OF_RESPONSES),
    responses.cancel_response: Operation(reply=(replies.ResponseReply,), errors=("queue_full", *OF_RESPONSES)),
    messages.create_message: Operation(
        body=MessagesRequest,
        reply=(replies.MessageReply,),
        events=EVENTS % "message_start, then for each block content_block_start, content_block_delta and "
        "content_block_stop, at the end message_delta and message_stop",
        errors=OF_TURNS,
    ),
    messages.count_message_tokens: Operation(
        body=CountedMessages, reply=(replies.CountedTokens,), errors=("model_not_found", *OF_AGENTS)
    ),
    embeddings.create_embeddings: Operation(
        body=EmbeddingsBody,
        reply=(replies.EmbeddingList,),
        errors=("model_not_found", "context_length_exceeded", *OF_AGENTS),
    ),
    models.list_models: Operation(reply=(replies.ModelList,)),
    models.show_model: Operation(reply=(replies.ModelEntry,), errors=("model_not_found",)),
    route.classify_prompt: Operation(
        body=RouteBody, reply=(replies.QueriedDomains, replies.PromptedDomains), errors=("unprocessable", *OF_AGENTS)
    ),
    sessions.show_session: Operation(reply=(replies.RememberedSession,), errors=("session_not_found", *OF_AGENTS)),
    sessions.forget_session: Operation(reply=(replies.ForgottenSession,), errors=("not_found", *OF_AGENTS)),
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
"""By the routes' functions, whose docstrings are the summaries. One that is missing here fails a test."""
