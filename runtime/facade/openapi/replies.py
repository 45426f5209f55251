"""The shapes of the replies, for their readers. Routes write them from what the bus brings; a test compares."""

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from runtime.facade.chat.tools import CustomCall
from schemas.findings import FinishReason, Level


class TokenCounts(Struct, frozen=True, kw_only=True):
    """Numbers of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TurnAccount(Struct, frozen=True, kw_only=True):
    """What the whole turn took and, with `kiki.trace`, how it came to its answer. Times are milliseconds."""

    usage: TokenCounts
    turn_id: str | UnsetType = UNSET
    session_id: str | UnsetType = UNSET
    level: Level | UnsetType = UNSET
    intent: str | UnsetType = UNSET
    domains: list[dict[str, Any]] | UnsetType = UNSET
    adapters: list[dict[str, Any]] | UnsetType = UNSET
    recalled: list[str] | UnsetType = UNSET
    history: list[str] | UnsetType = UNSET
    cut: bool | UnsetType = UNSET
    outcome: str | UnsetType = UNSET
    deliberation: dict[str, Any] | UnsetType = UNSET
    bias: dict[str, Any] | UnsetType = UNSET
    stages: list[dict[str, Any]] | UnsetType = UNSET


class CalledFunction(Struct, frozen=True, kw_only=True):
    """A function and the text of its arguments, which is a JSON object."""

    name: str
    arguments: str


class AnsweredCall(Struct, frozen=True, kw_only=True):
    """A call that the model asks the client to make: of a function, or of a custom tool."""

    id: str
    type: Literal["function", "custom"]
    function: CalledFunction | UnsetType = UNSET
    custom: CustomCall | UnsetType = UNSET


class ChatAnswer(Struct, frozen=True, kw_only=True):
    """The answer's message. `content` is null where it is calls alone; `reasoning` is there where it is shown."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning: str | UnsetType = UNSET
    tool_calls: list[AnsweredCall] | UnsetType = UNSET


class TopToken(Struct, frozen=True, kw_only=True):
    """A token, its natural-log probability, and its own bytes, which may be a part of a character."""

    token: str
    logprob: float
    bytes: list[int]


class AnsweredToken(TopToken, frozen=True, kw_only=True):
    """A token of the answer, with the likeliest ones at its place."""

    top_logprobs: list[TopToken]


class AnsweredTokens(Struct, frozen=True, kw_only=True):
    """The tokens of an answer."""

    content: list[AnsweredToken]
    refusal: None


class ChatChoice(Struct, frozen=True, kw_only=True):
    """One answer of a reply."""

    index: int
    message: ChatAnswer
    logprobs: AnsweredTokens | None
    finish_reason: FinishReason


class ChatReply(Struct, frozen=True, kw_only=True):
    """A chat completion. `usage` counts the answer's own tokens and the request's own messages."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[ChatChoice]
    usage: TokenCounts
    kiki: TurnAccount


class TokenLists(Struct, frozen=True, kw_only=True):
    """The tokens of a text in lists side by side; the first token of a prompt has no probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Struct, frozen=True, kw_only=True):
    """One text, with the prompt before it where `echo` asks for that."""

    index: int
    text: str
    logprobs: TokenLists | None
    finish_reason: Literal["stop", "length"]


class CompletionAccount(TurnAccount, frozen=True, kw_only=True):
    """What all turns of a request took and, where there are several prompts, each of them."""

    turns: list[TurnAccount] | UnsetType = UNSET


class CompletionReply(Struct, frozen=True, kw_only=True):
    """The texts that continue the prompts."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[CompletionChoice]
    usage: TokenCounts
    kiki: CompletionAccount


class AnswerBlock(Struct, frozen=True, kw_only=True):
    """A block of an answer: its reasoning, its text, or a call that it asks for."""

    type: Literal["thinking", "text", "tool_use"]
    thinking: str | UnsetType = UNSET
    signature: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    id: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    input: dict[str, Any] | UnsetType = UNSET


class MessageUsage(Struct, frozen=True, kw_only=True):
    """Numbers of tokens; how many of the prompt's were kept from earlier turns is not told."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int


class MessageReply(Struct, frozen=True, kw_only=True):
    """An answer as Anthropic's message."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[AnswerBlock]
    stop_reason: Literal["end_turn", "max_tokens", "tool_use"]
    stop_sequence: str | None
    usage: MessageUsage
    kiki: TurnAccount


class ItemPart(Struct, frozen=True, kw_only=True):
    """A text within an item."""

    type: Literal["input_text", "output_text", "reasoning_text"]
    text: str
    annotations: list[dict[str, Any]] | UnsetType = UNSET
    logprobs: list[AnsweredToken] | UnsetType = UNSET


class ResponseItem(Struct, frozen=True, kw_only=True):
    """A message, the reasoning before it, a call that is asked for, or the answer to one."""

    id: str
    type: Literal[
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
    ]
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["system", "user", "assistant"] | UnsetType = UNSET
    content: list[ItemPart] | UnsetType = UNSET
    summary: list[dict[str, Any]] | UnsetType = UNSET
    call_id: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET
    input: str | UnsetType = UNSET
    output: str | UnsetType = UNSET


class CachedTokens(Struct, frozen=True, kw_only=True):
    """Tokens of the input that were kept; not counted, so 0."""

    cached_tokens: int
    cache_write_tokens: int


class ReasoningTokens(Struct, frozen=True, kw_only=True):
    """Tokens of the output that were reasoning; not counted, so 0."""

    reasoning_tokens: int


class ResponseUsage(Struct, frozen=True, kw_only=True):
    """Numbers of tokens."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class ResponseFault(Struct, frozen=True, kw_only=True):
    """Why a response failed."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt", "context_length_exceeded"]
    message: str
    param: str | None


class IncompleteDetails(Struct, frozen=True, kw_only=True):
    """Why a response ended early."""

    reason: Literal["max_output_tokens"]


class ResponseReply(Struct, frozen=True, kw_only=True):
    """A response: what it says of its request, and its output; `usage` and `kiki` are there once it has one."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]
    error: ResponseFault | None
    incomplete_details: IncompleteDetails | None
    output: list[ResponseItem]
    usage: ResponseUsage | None
    model: str
    instructions: str | None
    previous_response_id: str | None
    tools: list[dict[str, Any]]
    tool_choice: str | dict[str, Any]
    parallel_tool_calls: bool
    max_tool_calls: int | None
    text: dict[str, Any]
    reasoning: dict[str, str | None]
    max_output_tokens: int | None
    temperature: float
    top_p: float
    top_logprobs: int
    truncation: Literal["disabled"]
    background: bool
    store: bool
    metadata: dict[str, str]
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    service_tier: Literal["default"]
    kiki: TurnAccount | UnsetType = UNSET


class ItemList(Struct, frozen=True, kw_only=True):
    """The items that a response was made from."""

    object: Literal["list"]
    data: list[ResponseItem]
    has_more: bool
    first_id: str | None
    last_id: str | None


class DeletedResponse(Struct, frozen=True, kw_only=True):
    """A response that is gone."""

    id: str
    object: Literal["response"]
    deleted: bool


class CountedTokens(Struct, frozen=True, kw_only=True):
    """The tokens of the prompt that a conversation makes."""

    input_tokens: int


class ModelEntry(Struct, frozen=True, kw_only=True):
    """A name that a request may give, the id behind it (`root`), and the tokens of its context; null when not known.

    A chat model has a level, an embedder the number of its vectors' dimensions.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    description: str
    context_length: int | None
    max_model_len: int | None
    level: Level | UnsetType = UNSET
    dimensions: int | UnsetType | None = UNSET


class ModelList(Struct, frozen=True, kw_only=True):
    """The models that a request may name."""

    object: Literal["list"]
    data: list[ModelEntry]


class EmbeddingEntry(Struct, frozen=True, kw_only=True):
    """A vector: numbers, or with `encoding_format` base64 the bytes of little-endian 32-bit floats."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Struct, frozen=True, kw_only=True):
    """The tokens of all texts together."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct, frozen=True, kw_only=True):
    """The vectors of the texts, in their order."""

    object: Literal["list"]
    data: list[EmbeddingEntry]
    model: str
    usage: EmbeddingUsage


class DomainEntry(Struct, frozen=True, kw_only=True):
    """A niche domain and its score, 0 to 1."""

    name: str
    score: float


class QueriedDomains(Struct, frozen=True, kw_only=True):
    """The domains of a `query`; `fallback` when none fits and the base model answers."""

    query: str
    domains: list[DomainEntry]
    fallback: bool


class ChosenDomain(Struct, frozen=True, kw_only=True):
    """A domain that was chosen, and its score, 0 to 1."""

    domain: str
    score: float


class PromptedDomains(Struct, frozen=True, kw_only=True):
    """The domains of a `prompt`; `base` is chosen when none fits."""

    chosen_domain: str
    selections: list[ChosenDomain]


class EpisodeEntry(Struct, frozen=True, kw_only=True):
    """What was asked and answered in one turn. `created_at` is Unix time in seconds."""

    id: str
    object: Literal["episode"]
    turn_id: str
    session_id: str
    created_at: float
    question: str
    answer: str
    speaker: str
    source_id: str


class FoundEpisode(EpisodeEntry, frozen=True, kw_only=True):
    """An episode with its score and the reasons for which it was found (dense, words, recency, ...)."""

    score: float
    reasons: list[str]


class FoundEpisodes(Struct, frozen=True, kw_only=True):
    """The episodes that answer a query, best first."""

    object: Literal["list"]
    data: list[FoundEpisode]


class RememberedSession(Struct, frozen=True, kw_only=True):
    """A session's episodes in time."""

    object: Literal["session"]
    id: str
    episodes: list[EpisodeEntry]


class ForgottenSession(Struct, frozen=True, kw_only=True):
    """How many episodes of a session were deleted."""

    object: Literal["session.deleted"]
    id: str
    deleted: bool
    episodes: int


class ForgottenUser(Struct, frozen=True, kw_only=True):
    """How many episodes of a user were deleted."""

    object: Literal["memory.deleted"]
    user: str
    deleted: bool
    episodes: int


class TurnEntry(Struct, frozen=True, kw_only=True):
    """A stored event: its place in the stream, when it was stored, its subject, and the event as the contract on the
    bus has it (docs/asyncapi.json)."""

    seq: int
    stored_at: str
    subject: str
    event: dict[str, Any]


class StoredTurn(Struct, frozen=True, kw_only=True):
    """The events of a turn, in order."""

    object: Literal["turn"]
    id: str
    events: list[TurnEntry]


class AdapterEntry(Struct, frozen=True, kw_only=True):
    """An adapter as the worker has it: `resident` in memory, `seated` beside others, `active` in the model.

    `sha256`, `bytes`, `modules` and `norm` are known once it was read; `seconds` is how long the request took.
    `verdict` is what the gates say of its weights, `refusal` why they refuse them; only ungated and passed ones are
    served. `worker` is the worker that says so.
    """

    id: str
    object: Literal["adapter"]
    name: str
    worker: str
    resident: bool
    seated: bool
    active: bool
    sha256: str
    bytes: int
    modules: int
    seconds: float
    norm: float | None
    verdict: Literal["ungated", "waiting", "passed", "refused"] | None
    refusal: str


class AdapterList(Struct, frozen=True, kw_only=True):
    """All registered adapters of one worker, and the bytes that resident ones may take."""

    object: Literal["list"]
    data: list[AdapterEntry]
    budget: int
    worker: str


class AgentEntry(Struct, frozen=True, kw_only=True):
    """An agent's process, and whether it takes work."""

    agent: str
    pid: int
    ready: bool
    detail: str
    resident_bytes: int | None


class BrokerState(Struct, frozen=True, kw_only=True):
    """Whether the broker is there, and how often it writes to its disk; null when it does not say."""

    connected: bool
    sync_interval: str | None


class MemoryState(Struct, frozen=True, kw_only=True):
    """Bytes in memory: of the facade's process, and of all agents' processes, each counted once."""

    resident_bytes: int
    agents_resident_bytes: int


class AdaptersState(Struct, frozen=True, kw_only=True):
    """How many adapters the worker with most of them has, and which are in a model now; null where none reports.

    The gates have not judged those that are `ungated` (they are served) and `waiting` (they are not), nor do those
    serve that they `refused`.
    """

    registered: int | None
    resident: int | None
    resident_bytes: int | None
    active: list[str]
    ungated: list[str]
    waiting: list[str]
    refused: list[str]


class Health(Struct, frozen=True, kw_only=True):
    """The state of broker, agents, turns, memory and adapters; `degraded` while the broker is away."""

    status: Literal["ok", "degraded"]
    broker: BrokerState
    agents: list[AgentEntry]
    turns_in_flight: int
    uptime_seconds: float
    memory: MemoryState
    adapters: AdaptersState | None


class Readiness(Struct, frozen=True, kw_only=True):
    """Every agent takes work."""

    status: Literal["ready"]
    agents: list[AgentEntry]


class AliasState(Struct, frozen=True, kw_only=True):
    """Whether a model id can be asked."""

    alias: str
    status: Literal["ready", "unavailable"]


class Status(Struct, frozen=True, kw_only=True):
    """The active adapters, the last swap in milliseconds, and whether each model id can be asked."""

    active_lora: str | None
    last_swap_ms: float | None
    models: list[AliasState]
    agents: list[AgentEntry]
