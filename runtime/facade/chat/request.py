"""What a client asks of ``POST /v1/chat/completions``: OpenAI's body checked and made a query.

Every field is served, or passed over because it cannot change an answer for the worse, or refused by name. The other
dialects are translated into this body's struct and checked here, too.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from runtime.catalogue import Catalogue, ServedModel
from runtime.facade.chat import tools
from runtime.facade.chat.fields import decode_body
from runtime.facade.chat.messages import SentMessage, parse_messages
from runtime.facade.settings import FacadeSettings
from schemas.chat import (
    MAX_CANDIDATES,
    MAX_STOPS,
    MAX_TOKENS,
    LogitBias,
    Message,
    Penalty,
    RepetitionPenalty,
    Sampling,
    Tooling,
)
from schemas.errors import InvalidInput
from schemas.findings import AdapterScale, Continuation, Level, MemoryScope, Query

Count = Annotated[int, Meta(ge=1, le=MAX_CANDIDATES)]
Tokens = Annotated[int, Meta(ge=-1)]
"""A number of tokens; -1 asks for as many as there may be."""

REFUSED: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "modalities": (None, ["text"]),
    "web_search_options": (None,),
}
"""OpenAI's fields that would change the answer and are not served, each with the values that ask for nothing."""

EFFORTS: dict[str, Level] = {"none": "fast", "minimal": "fast", "low": "fast", "high": "full", "xhigh": "full"}
"""The level for an effort that is asked for; with any other it is the model's."""

SEEDS = 2**63
MAX_DIGITS = 7
"""Digits of a token id."""


class StreamOptions(Struct, frozen=True, kw_only=True):
    """``include_usage``: a last chunk without choices has the usage."""

    include_usage: bool | None = None


class SchemaFormat(Struct, frozen=True, kw_only=True):
    """A named JSON Schema; the answer always follows it, so ``strict`` changes nothing."""

    name: str = ""
    description: str | None = None
    schema: dict[str, Any]


class ResponseFormat(Struct, frozen=True, kw_only=True):
    """Free text, any JSON object, or JSON that follows a schema; some clients send ``schema`` beside ``type``."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None
    schema: dict[str, Any] | None = None


class TemplateOptions(Struct, frozen=True, kw_only=True):
    """The switches of chat templates that turn reasoning on and off, by the names that models give them."""

    enable_thinking: bool | None = None
    thinking: bool | None = None


class ThinkingSwitch(Struct, frozen=True, kw_only=True):
    """The same switch as some clients send it beside the messages."""

    type: Literal["enabled", "disabled", "adaptive"]


class Extension(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The field ``kiki``, which OpenAI does not have: level of cognition, candidates that the panel judges, whether the
    reply has the turn's account (``trace``), whether a stream says in comments what is being done (``progress``),
    whether the reply shows reasoning, whether the session's last turns stand before the new message (``history``),
    what is recalled (``memory``), and a factor on what the adapters change (``adapter_scale``; 0 is the base model)."""

    level: Level | None = None
    candidates: Count | None = None
    trace: bool = False
    progress: bool = False
    thinking: bool | None = None
    memory: MemoryScope | None = None
    history: Literal["none", "session"] = "none"
    adapter_scale: AdapterScale | None = None


class ChatRequest(Struct, frozen=True, kw_only=True):
    """The body. Ranges are those of OpenAI's reference, and what peers take beyond it; ``top_k``, ``min_p``,
    ``system``, ``kiki`` are beside it."""

    model: str | None = None
    messages: list[SentMessage]
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    repetition_penalty: RepetitionPenalty | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, LogitBias], Meta(max_length=300)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    n: Count | None = None
    stop: str | Annotated[list[str], Meta(max_length=MAX_STOPS)] | None = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, Any] | None = None
    system: str | None = None
    kiki: Extension = Extension()
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: TemplateOptions | None = None
    enable_thinking: bool | None = None
    thinking: ThinkingSwitch | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    store: bool | None = None
    tool_choice: Any = None
    tools: Any = None
    audio: Any = None
    function_call: Any = None
    functions: Any = None
    modalities: Any = None
    web_search_options: Any = None


@dataclass(frozen=True, kw_only=True)
class CheckedRequest:
    """A checked request.

    ``seed`` is None when the request has none; ``level`` holds unless the router plans another, and ``stepped_down``
    names the field for which it is lower than that of the model; ``thinking`` is whether the model's reasoning is
    shown; ``session`` is the body's ``metadata.session_id``; ``users`` are the fields that name the user, with their
    values; ``n`` is the number of choices in the reply; ``niche`` is the adapter that the model id names;
    ``custom_tools`` are the tools whose calls carry a text.
    """

    query: Query
    seed: int | None
    level: Level
    stepped_down: str | None
    n: int
    trace: bool
    progress: bool
    thinking: bool
    session: str | None
    users: tuple[tuple[str, str | None], ...]
    niche: str | None
    custom_tools: frozenset[str] = frozenset()

    @property
    def stream(self) -> bool:
        """Whether the answer is streamed."""
        return self.query.stream


def read_chat(data: bytes, *, models: Catalogue, settings: FacadeSettings) -> CheckedRequest:
    """Decode and check the body.

    Raises:
        InvalidInput: a field is wrong or not served; ``param`` names it.
        UnknownModel: there is no model of that name.
    """
    return check_chat(decode_body(ChatRequest, data, strict=settings.strict_fields), models=models, settings=settings)


def check_chat(body: ChatRequest, *, models: Catalogue, settings: FacadeSettings) -> CheckedRequest:
    """Check the body and make it a query.

    Raises:
        InvalidInput: a field is wrong or not served; ``param`` names it.
        UnknownModel: there is no model of that name.
    """
    refuse_unserved(body)
    if body.add_generation_prompt and body.continue_final_message:
        raise InvalidInput(
            "the last message is continued or a new one begun: send one of 'continue_final_message' and "
            "'add_generation_prompt'.",
            param="continue_final_message",
        )
    messages = parse_messages(body.messages, system=body.system)
    offered = tools.parse_tools(body.tools, body.tool_choice, parallel=body.parallel_tool_calls)
    if offered.tooling is not None and offered.tooling.must_call and is_structured(body.response_format):
        raise InvalidInput(
            "'tool_choice' asks for a call and 'response_format' for text: send one of them.", param="tool_choice"
        )
    limits = {
        "tools": offered.tooling is not None,
        "response_format": is_structured(body.response_format),
        "logprobs": bool(body.logprobs),
        "n": (body.n or 1) > 1,
        "messages": messages[-1].role == "assistant",
    }
    return check_request(
        body,
        messages=messages,
        tooling=offered.tooling,
        custom_tools=offered.custom,
        limits=[name for name, holds in limits.items() if holds],
        models=models,
        settings=settings,
    )


def check_request(
    body: ChatRequest,
    *,
    messages: tuple[Message, ...],
    models: Catalogue,
    settings: FacadeSettings,
    tooling: Tooling | None = None,
    custom_tools: frozenset[str] = frozenset(),
    limits: list[str],
    continuation: Continuation | None = None,
) -> CheckedRequest:
    """Make a query of messages and the other fields of a body. ``limits`` are the fields that no panel can serve.

    Raises:
        InvalidInput: a field is wrong or not served; ``param`` names it.
        UnknownModel: there is no model of that name.
    """
    model_id, model = models.resolve(body.model)
    level, stepped_down = _choose_level(body, model, limits)
    if body.kiki.history == "session" and level == "raw":
        raise InvalidInput(
            "'kiki.history' needs the level fast or full: raw turns are not recorded.", param="kiki.history"
        )
    query = Query(
        model=model_id,
        messages=messages,
        sampling=_sampling(body, model, settings),
        level=level if limits or body.kiki.level or body.reasoning_effort in EFFORTS else None,
        candidates=_count_candidates(body, level),
        stream=bool(body.stream),
        tooling=tooling,
        memory=body.kiki.memory,
        store=body.store is not False,
        history=body.kiki.history,
        awaited=True,
        continuation=continuation,
        thinking=_wants_thinking(body),
        adapter_scale=body.kiki.adapter_scale,
    )
    reasons = model.thinking if query.thinking is None else query.thinking
    session = (body.metadata or {}).get("session_id")
    return CheckedRequest(
        query=query,
        seed=_parse_seed(body.seed),
        level=level,
        stepped_down=stepped_down,
        n=body.n or 1,
        trace=body.kiki.trace,
        progress=body.kiki.progress,
        thinking=reasons if body.kiki.thinking is None else body.kiki.thinking,
        session=None if session is None else str(session),
        users=(("user", body.user), ("safety_identifier", body.safety_identifier)),
        niche=model.niche,
        custom_tools=custom_tools,
    )


def refuse_unserved(body: ChatRequest) -> None:
    """Raise on the first field that is not served and asks for something."""
    for name, neutral in REFUSED.items():
        if getattr(body, name) not in neutral:
            instead = "send 'tools' and 'tool_choice' instead" if name.startswith("function") else "leave it out"
            raise InvalidInput(
                f"'{name}' is not supported: {instead}. Neutral values that pass: {list(neutral)}.", param=name
            )


def is_structured(response_format: ResponseFormat | None) -> bool:
    """Whether the answer must be JSON."""
    return response_format is not None and response_format.type != "text"


def _choose_level(body: ChatRequest, model: ServedModel, limits: list[str]) -> tuple[Level, str | None]:
    """The request's level, or that of its effort, or the model's; and the field for which it is lower.

    A panel argues over one text that it may revise, so what it cannot serve steps down to fast, unless the request
    insists on full.
    """
    level = body.kiki.level or model.level
    if body.kiki.level is None and model.level != "raw":
        level = EFFORTS.get(body.reasoning_effort or "", level)
    if level != "full" or not limits:
        return level, None
    if body.kiki.level == "full":
        raise InvalidInput(
            f"'{limits[0]}' needs the level raw or fast, whose answers are not revised: leave 'kiki.level' out.",
            param=limits[0],
        )
    return "fast", limits[0]


def _wants_thinking(body: ChatRequest) -> bool | None:
    """Whether the model is to reason before it answers; None when the request does not say."""
    options = body.chat_template_kwargs or TemplateOptions()
    switches = (options.enable_thinking, options.thinking, body.enable_thinking)
    if (switch := next((switch for switch in switches if switch is not None), None)) is not None:
        return switch
    if body.thinking is not None:
        return body.thinking.type != "disabled"
    return False if body.reasoning_effort == "none" else None


def _sampling(body: ChatRequest, model: ServedModel, settings: FacadeSettings) -> Sampling:
    default = model.temperature if model.temperature is not None else Sampling().temperature
    temperature = default if body.temperature is None else body.temperature
    if body.top_logprobs and not body.logprobs:
        raise InvalidInput("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
    return Sampling(
        max_tokens=_max_tokens(body, model, settings),
        temperature=0.0 if body.top_p == 0.0 else temperature,  # of the whole mass, none: the likeliest token alone
        top_p=body.top_p or 1.0,
        top_k=min(max(body.top_k or 0, 0), 1000),
        min_p=body.min_p or 0.0,
        stop=_parse_stops(body.stop),
        repetition_penalty=body.repetition_penalty or 1.0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=_parse_biases(body.logit_bias or {}),
        logprobs=bool(body.logprobs),
        top_logprobs=body.top_logprobs or 0,
        json_schema=_json_schema(body.response_format),
    )


def _json_schema(response_format: ResponseFormat | None) -> str | None:
    if response_format is None or response_format.type == "text":
        return None
    schema = response_format.schema
    if response_format.json_schema is not None:
        schema = response_format.json_schema.schema
    if schema is None:
        if response_format.type == "json_object":
            return '{"type": "object"}'
        raise InvalidInput("'response_format' needs its 'json_schema'.", param="response_format.json_schema")
    return msgspec.json.encode(schema).decode()


def _max_tokens(body: ChatRequest, model: ServedModel, settings: FacadeSettings) -> int:
    """The answer's length; the newer of the two fields counts, and the worker ends it at the model's context."""
    name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    limit: int | None = getattr(body, name)
    if limit == 0:
        raise InvalidInput(f"'{name}' is 0: ask for one token at least.", param=name)
    if limit is None:
        limit = model.max_tokens or settings.default_max_tokens
    most = settings.max_tokens_cap or MAX_TOKENS  # prepare_turn ends it at the model's context
    return min(limit if limit > 0 else most, most)


def _parse_seed(seed: int | None) -> int | None:
    """The seed as one that is not negative; -1 is none.

    Raises:
        InvalidInput: it has more than 64 bits.
    """
    if seed is None or seed == -1:
        return None
    if not -SEEDS <= seed < SEEDS:
        raise InvalidInput(f"'seed' is {seed}; it may be from -2^63 to 2^63 - 1.", param="seed")
    return seed % SEEDS


def _parse_biases(biases: dict[str, float]) -> dict[str, float]:
    """The biases by token.

    Raises:
        InvalidInput: a key is no token id.
    """
    if wrong := [token for token in biases if not (token.isascii() and token.isdigit() and len(token) <= MAX_DIGITS)]:
        raise InvalidInput(
            f"'logit_bias' has keys that are no token ids: {', '.join(wrong)[:200]}. An id is an integer, as text.",
            param="logit_bias",
        )
    return biases


def _parse_stops(stop: str | list[str] | None) -> tuple[str, ...]:
    """The stop strings; an empty one would stop nothing and is left out."""
    strings = [stop] if isinstance(stop, str) else stop or []
    return tuple(string for string in strings if string)


def _count_candidates(body: ChatRequest, level: Level) -> int | None:
    """How many candidates to decode: the choices of the reply, or those of which a panel makes one answer."""
    n, candidates = body.n or 1, body.kiki.candidates
    if level == "full":
        return candidates
    if candidates not in (None, n) and (n > 1 or level == "raw"):
        raise InvalidInput(f"at level {level} the candidates are the choices: set 'n' alone.", param="kiki.candidates")
    return n if n > 1 or level == "raw" else candidates
