"""What a client asks of ``POST /v1/chat/completions``: OpenAI's body decoded, checked and made a query.

Every field is served, or accepted with its neutral value, or refused by name.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from runtime.catalogue import Catalogue, ServedModel
from runtime.facade.chat import tools
from runtime.facade.settings import FacadeSettings
from schemas.base import UNREADABLE
from schemas.chat import MAX_CANDIDATES, Message, Role, Sampling, TokenId, Tooling
from schemas.codec import field_of
from schemas.errors import InvalidInput, UnknownModel
from schemas.findings import Level, MemoryScope, Query

S = TypeVar("S", bound=Struct)
Count = Annotated[int, Meta(ge=1, le=MAX_CANDIDATES)]

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "function_call": (None, "none", "auto"),
    "functions": (None, []),
    "modalities": (None, ["text"]),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "service_tier": (None, "auto", "default"),
    "verbosity": (None,),
    "web_search_options": (None,),
}
"""OpenAI's fields that are not served, each with the values that ask for nothing and are accepted."""

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_ECHOED = ("annotations", "audio", "function_call", "refusal")
"""Fields of a message that clients echo from an answer; they must be empty."""


class SentMessage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One message as clients send it, with what they echo of an earlier answer."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    reasoning: str | None = None
    annotations: Any = None
    audio: Any = None
    function_call: Any = None
    refusal: Any = None
    tool_calls: Any = None
    tool_call_id: str | None = None


class StreamOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``include_obfuscation`` is accepted without effect: nothing is padded."""

    include_usage: bool = False
    include_obfuscation: bool = False


class SchemaFormat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named JSON Schema; the answer always follows it, so ``strict`` changes nothing."""

    name: str = ""
    description: str | None = None
    schema: dict[str, Any]
    strict: bool | None = None


class ResponseFormat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Free text, any JSON object, or JSON that follows a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None


_FREE = ResponseFormat(type="text")


class Extension(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The field ``kiki``, which OpenAI does not have: level of cognition, candidates that the panel judges, whether the
    reply has the turn's account (``trace``), whether it shows reasoning, whether the session's last turns stand
    before the new message (``history``), and what is recalled (``memory``)."""

    level: Level | None = None
    candidates: Count | None = None
    trace: bool = False
    thinking: bool | None = None
    memory: MemoryScope | None = None
    history: Literal["none", "session"] = "none"


class ChatRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body. Ranges are those of OpenAI's reference; ``top_k``, ``min_p``, ``system``, ``kiki`` are beside it."""

    model: str
    messages: list[SentMessage]
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=1000)] | None = None
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0.0, le=2.0)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] | None = None
    logit_bias: dict[TokenId, Annotated[float, Meta(ge=-100.0, le=100.0)]] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    n: Count | None = None
    stop: str | Annotated[list[str], Meta(max_length=4)] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    system: str | None = None
    kiki: Extension = Extension()
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    audio: Any = None
    function_call: Any = None
    functions: Any = None
    modalities: Any = None
    parallel_tool_calls: bool | None = None
    prediction: Any = None
    reasoning_effort: Any = None
    service_tier: Any = None
    store: bool | None = None
    tool_choice: Any = None
    tools: Any = None
    verbosity: Any = None
    web_search_options: Any = None


@dataclass(frozen=True, kw_only=True)
class CheckedRequest:
    """A checked request.

    ``seed`` is None when the request has none; ``level`` holds unless the router plans another; ``thinking`` is whether
    the model's reasoning is shown; ``session`` is the body's ``metadata.session_id``; ``users`` are the fields that
    name the user, with their values; ``n`` is the number of choices in the reply.
    """

    query: Query
    seed: int | None
    level: Level
    n: int
    stream: bool
    include_usage: bool
    trace: bool
    thinking: bool
    session: str | None
    users: tuple[tuple[str, str | None], ...]


def decode_body(kind: type[S], data: bytes, *, code: str = "invalid_request") -> S:
    """A request's JSON as a struct.

    Raises:
        InvalidInput: it is not JSON, or a field is wrong (then with ``code``); ``param`` names the field.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the body is refused: {error}.", code=code, param=field_of(str(error))) from error
    except UNREADABLE as error:
        raise InvalidInput(f"the body is not valid JSON: {error}.") from error


def read_chat(data: bytes, *, models: Catalogue, settings: FacadeSettings) -> CheckedRequest:
    """Decode and check the body.

    Raises:
        InvalidInput: a field is wrong or not served; ``param`` names it.
        UnknownModel: there is no model of that name.
    """
    body = decode_body(ChatRequest, data)
    refuse_unserved(body)
    model = models.get(body.model)
    if model is None:
        raise UnknownModel(f"there is no model '{body.model}': GET /v1/models lists them.", param="model")
    tooling = _tooling(body)
    level = _level(body, model, tooling)
    if body.kiki.history == "session" and level == "raw":
        raise InvalidInput(
            "'kiki.history' needs the level fast or full: raw turns are not recorded.", param="kiki.history"
        )
    # Tools, log-probabilities and formats are checked against this level, so the router must not plan another one.
    level_is_fixed = tooling is not None or body.logprobs or (body.response_format or _FREE) != _FREE
    query = Query(
        model=body.model,
        messages=conversation(body),
        sampling=_sampling(body, model, settings, level),
        level=level if level_is_fixed else body.kiki.level,
        candidates=_candidates(body, level),
        stream=bool(body.stream),
        tooling=tooling,
        memory=body.kiki.memory,
        store=body.store is not False,
        history=body.kiki.history,
        awaited=True,
    )
    return CheckedRequest(
        query=query,
        seed=body.seed,
        level=level,
        n=body.n or 1,
        stream=query.stream,
        include_usage=_include_usage(body),
        trace=body.kiki.trace,
        thinking=model.thinking if body.kiki.thinking is None else body.kiki.thinking,
        session=(body.metadata or {}).get("session_id"),
        users=(("user", body.user), ("safety_identifier", body.safety_identifier)),
    )


def refuse_unserved(body: ChatRequest) -> None:
    """Raise on the first field that is not served and asks for something."""
    for name, neutral in NEUTRAL.items():
        if getattr(body, name) not in neutral:
            raise InvalidInput(
                f"'{name}' is not supported: leave it out. Neutral values that pass: {list(neutral)}.", param=name
            )


def conversation(body: ChatRequest) -> tuple[Message, ...]:
    """The messages, with all system text at the start in one message (chat templates want it so)."""
    messages = [_message(sent_message, f"messages[{index}]") for index, sent_message in enumerate(body.messages)]
    if not messages:
        raise InvalidInput("'messages' is empty: send at least one user message.", param="messages")
    messages = _name_tool_answers(messages)
    last = len(messages) - 1
    if messages[last].role not in ("user", "tool") or not any(message.role == "user" for message in messages):
        raise InvalidInput("the last message must be the user's, or a tool's answer.", param=f"messages[{last}].role")
    if messages[last].role == "user" and not messages[last].content.strip():
        raise InvalidInput("the last message is empty: ask something.", param=f"messages[{last}].content")
    system = [body.system] if body.system else []
    while messages[0].role == "system":
        system.append(messages.pop(0).content)
    head = [Message(role="system", content="\n\n".join(system))] if system else []
    return (*head, *messages)


def _message(message: SentMessage, where: str) -> Message:
    role = _ROLES.get(message.role)
    if role is None:
        raise InvalidInput(f"the role '{message.role}' is not one of {', '.join(_ROLES)}.", param=f"{where}.role")
    for name in _ECHOED:
        if getattr(message, name):
            raise InvalidInput(f"'{name}' in a message is not supported: leave it out.", param=f"{where}.{name}")
    calls = tools.parse_echoed_calls(message.tool_calls, f"{where}.tool_calls")
    if calls and role != "assistant":
        raise InvalidInput("only an assistant's message calls tools.", param=f"{where}.tool_calls")
    if message.tool_call_id is not None and role != "tool":
        raise InvalidInput("only a tool's message answers a call.", param=f"{where}.tool_call_id")
    content = "" if calls and message.content is None else _text(message.content, f"{where}.content")
    return Message(role=role, content=content, name=message.name, tool_calls=calls, tool_call_id=message.tool_call_id)


def _name_tool_answers(messages: list[Message]) -> list[Message]:
    """The messages with each tool's answer named as its call, which must stand before it."""
    names: dict[str, str] = {}
    named_messages: list[Message] = []
    for index, message in enumerate(messages):
        names |= {call.id: call.name for call in message.tool_calls}
        if message.role == "tool":
            if message.tool_call_id not in names:
                raise InvalidInput(
                    "a tool's message answers a call of an assistant's message before it.",
                    param=f"messages[{index}].tool_call_id",
                )
            message = msgspec.structs.replace(message, name=names[message.tool_call_id])
        named_messages.append(message)
    return named_messages


def _tooling(body: ChatRequest) -> Tooling | None:
    tooling = tools.parse_tooling(body.tools, body.tool_choice, parallel=body.parallel_tool_calls)
    if tooling is not None and body.kiki.level == "full":
        raise InvalidInput("'tools' need the level raw or fast: at level full an answer may be revised.", param="tools")
    if tooling is not None and tooling.must_call and body.response_format not in (None, _FREE):
        raise InvalidInput(
            "'tool_choice' asks for a call and 'response_format' for text: send one of them.", param="tool_choice"
        )
    return tooling


def _level(body: ChatRequest, model: ServedModel, tooling: Tooling | None) -> Level:
    """The request's level, or the model's. With tools it is at most fast: a panel does not argue over calls."""
    level = body.kiki.level or model.level
    return "fast" if tooling is not None and level == "full" else level


def _text(content: str | list[dict[str, Any]] | None, where: str) -> str:
    if content is None:
        raise InvalidInput("a message has no content: send text.", param=where)
    if isinstance(content, str):
        return content
    if not content:
        raise InvalidInput("a message has no content: send text.", param=where)
    return "\n".join(_part(part, f"{where}[{index}]") for index, part in enumerate(content))


def _part(part: dict[str, Any], where: str) -> str:
    kind = part.get("type")
    if kind != "text":
        raise InvalidInput(f"content of type {kind!r} is not supported: send text parts only.", param=f"{where}.type")
    if not isinstance(part.get("text"), str):
        raise InvalidInput("a text part needs a string 'text'.", param=f"{where}.text")
    if unknown := set(part) - {"type", "text"}:
        raise InvalidInput("a text part has only 'type' and 'text'.", param=f"{where}.{min(unknown)}")
    return str(part["text"])


def _sampling(body: ChatRequest, model: ServedModel, settings: FacadeSettings, level: Level) -> Sampling:
    default = model.temperature if model.temperature is not None else Sampling().temperature
    return Sampling(
        max_tokens=_max_tokens(body, model, settings),
        temperature=default if body.temperature is None else body.temperature,
        top_p=body.top_p or Sampling().top_p,
        top_k=body.top_k or 0,
        min_p=body.min_p or 0.0,
        stop=_stop(body.stop),
        repetition_penalty=body.repetition_penalty or 1.0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=body.logit_bias or {},
        logprobs=_logprobs(body, level),
        top_logprobs=body.top_logprobs or 0,
        json_schema=_json_schema(body.response_format, level),
    )


def _logprobs(body: ChatRequest, level: Level) -> bool:
    """Whether the reply has log-probabilities: only at levels raw and fast, and only when it is not streamed."""
    if not body.logprobs:
        if body.top_logprobs:
            raise InvalidInput("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
        return False
    if level == "full" or body.stream:
        raise InvalidInput(
            "'logprobs' need the level raw or fast and no stream: set kiki.level and leave 'stream' out.",
            param="logprobs",
        )
    return True


def _json_schema(response_format: ResponseFormat | None, level: Level) -> str | None:
    if response_format is None or response_format.type == "text":
        return None
    if level == "full":
        raise InvalidInput(
            f"'response_format' {response_format.type} needs the level raw or fast, whose answers are not revised: "
            "set kiki.level.",
            param="response_format",
        )
    if response_format.type == "json_object":
        return '{"type": "object"}'
    if response_format.json_schema is None:
        raise InvalidInput("'response_format' needs its 'json_schema'.", param="response_format.json_schema")
    return msgspec.json.encode(response_format.json_schema.schema).decode()


def _max_tokens(body: ChatRequest, model: ServedModel, settings: FacadeSettings) -> int:
    if None not in (body.max_tokens, body.max_completion_tokens) and body.max_tokens != body.max_completion_tokens:
        raise InvalidInput("'max_tokens' and 'max_completion_tokens' differ: send one.", param="max_tokens")
    name = "max_completion_tokens" if body.max_tokens is None else "max_tokens"
    limit: int | None = getattr(body, name)
    if limit is not None and limit > settings.max_tokens_cap:
        raise InvalidInput(f"'{name}' is {limit}, at most {settings.max_tokens_cap} are served.", param=name)
    return limit or min(model.max_tokens or settings.default_max_tokens, settings.max_tokens_cap)


def _stop(stop: str | list[str] | None) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if not all(strings):
        raise InvalidInput("a stop string is empty: leave it out.", param="stop")
    return strings


def _candidates(body: ChatRequest, level: Level) -> int | None:
    """How many candidates to decode. At level raw each is a choice of the reply; at the others they make one answer."""
    n, candidates = body.n or 1, body.kiki.candidates
    if level != "raw":
        if n > 1:
            raise InvalidInput(f"'n' is {n}: the level '{level}' gives one answer; use level raw for more.", param="n")
        return candidates
    if candidates not in (None, n):
        raise InvalidInput("in level raw the candidates are the choices: set 'n'.", param="kiki.candidates")
    return n


def _include_usage(body: ChatRequest) -> bool:
    if body.stream_options is None:
        return False
    if not body.stream:
        raise InvalidInput("'stream_options' needs 'stream': true.", param="stream_options")
    return body.stream_options.include_usage
