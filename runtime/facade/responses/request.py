"""What a client asks of ``POST /v1/responses``: the body made a chat request, and checked as one."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import msgspec
from msgspec import Struct

from runtime.catalogue import Catalogue
from runtime.facade.chat.fields import convert_body
from runtime.facade.chat.request import ChatRequest, CheckedRequest, Extension, TemplateOptions, check_chat
from runtime.facade.responses.items import InputItem, parse_items
from runtime.facade.responses.terms import Terms, keep_terms
from runtime.facade.responses.tools import FlatTool, describe_tools, nest_choice, nest_tools
from runtime.facade.settings import FacadeSettings
from runtime.facade.words import NAMES, translate
from schemas.chat import Message
from schemas.errors import InvalidInput

REFUSED: dict[str, tuple[Any, ...]] = {"background": (None, False), "conversation": (None,), "prompt": (None,)}
"""OpenAI's fields that are not served, each with the values that ask for nothing."""

ALIKE = (
    "model",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "stream",
    "user",
    "safety_identifier",
    "metadata",
    "store",
    "parallel_tool_calls",
    "chat_template_kwargs",
    "kiki",
)
"""Fields that a chat request has by the same name, and whose ranges are checked there."""

LOGPROBS = "message.output_text.logprobs"
"""What ``include`` asks for to have the tokens' log-probabilities; what else it may hold belongs to what is not
served, or asks for nothing."""


class ReasoningOptions(Struct, frozen=True, kw_only=True):
    """``effort`` as ``reasoning_effort`` of a chat request; no summary is written, the reasoning itself is shown."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class TextFormat(Struct, frozen=True, kw_only=True):
    """Free text, any JSON object, or JSON that follows a schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextOptions(Struct, frozen=True, kw_only=True):
    """``format``: what the text must be."""

    format: TextFormat | None = None


class ResponseRequest(Struct, frozen=True, kw_only=True):
    """The body. A conversation that does not fit the model is refused whatever ``truncation`` says."""

    model: str | None = None
    input: str | list[InputItem] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    tools: list[FlatTool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: int | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    chat_template_kwargs: TemplateOptions | None = None
    kiki: Extension = Extension()
    background: Any = None
    conversation: Any = None
    prompt: Any = None


def refuse_unserved(body: ResponseRequest) -> None:
    """Raise on the first field that asks for what is not served, or is not there though it must be."""
    for name, neutral in REFUSED.items():
        if getattr(body, name) not in neutral:
            raise InvalidInput(
                f"'{name}' is not supported: leave it out. Neutral values that pass: {list(neutral)}.", param=name
            )
    if body.stream_options is not None and not body.stream:
        raise InvalidInput("'stream_options' needs 'stream': true.", param="stream_options")
    if not body.input:
        raise InvalidInput("'input' is empty: send a text, or items.", param="input")


def check_response(
    body: ResponseRequest,
    items: str | Sequence[InputItem],
    earlier: Sequence[Message],
    *,
    models: Catalogue,
    settings: FacadeSettings,
) -> tuple[CheckedRequest, Terms]:
    """Check a body whose ``items`` hold no references any more, behind the ``earlier`` conversation.

    Returns:
        The request as a chat request, and what its response says of it, which is in its query, too.

    Raises:
        InvalidInput: a field is wrong or not served; ``param`` names it.
        UnknownModel: there is no model of that name.
    """
    transcript = parse_items(earlier, items)
    try:
        chat_body = msgspec.structs.replace(_translate(body), messages=transcript.messages)
        request = check_chat(chat_body, models=models, settings=settings)
    except InvalidInput as error:
        raise translate(error, transcript.places) from error.__cause__
    terms = Terms(thinking=request.thinking, fields=_repeat(body, request))
    stepped_down = request.stepped_down and NAMES.get(request.stepped_down, request.stepped_down)
    return replace(request, query=keep_terms(request.query, terms), stepped_down=stepped_down), terms


def _translate(body: ResponseRequest) -> ChatRequest:
    """The chat request of a body, without its messages."""
    fields = {name: msgspec.to_builtins(getattr(body, name)) for name in ALIKE}
    logprobs = bool(body.top_logprobs) or LOGPROBS in (body.include or ())
    fields |= {
        "messages": [],
        "system": body.instructions,
        "max_completion_tokens": body.max_output_tokens,
        "reasoning_effort": body.reasoning and body.reasoning.effort,
        "logprobs": logprobs,
        "top_logprobs": body.top_logprobs if logprobs else None,
        "response_format": _translate_format((body.text or TextOptions()).format),
        "tools": nest_tools(body.tools or ()),
        "tool_choice": nest_choice(body.tool_choice),
    }
    return convert_body(fields, ChatRequest)


def _translate_format(text_format: TextFormat | None) -> dict[str, Any] | None:
    if text_format is None or text_format.type != "json_schema":
        return None if text_format is None else {"type": text_format.type}
    if text_format.schema is None:
        raise InvalidInput("a 'text.format' of type 'json_schema' needs its 'schema'.", param="text.format.schema")
    return {"type": "json_schema", "json_schema": {"name": text_format.name or "", "schema": text_format.schema}}


def _repeat(body: ResponseRequest, request: CheckedRequest) -> dict[str, Any]:
    """The fields that a response repeats of its request, with what is in force where the request has none."""
    sampling, reasoning = request.query.sampling, body.reasoning or ReasoningOptions()
    text_format = (body.text or TextOptions()).format or TextFormat(type="text")
    known_format = {name: value for name, value in msgspec.to_builtins(text_format).items() if value is not None}
    return {
        "model": request.query.model,
        "instructions": body.instructions,
        "previous_response_id": body.previous_response_id or None,
        "tools": describe_tools(body.tools or ()),
        "tool_choice": "auto" if body.tool_choice is None else body.tool_choice,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "max_tool_calls": body.max_tool_calls,
        "text": {"format": known_format},
        "reasoning": {"effort": reasoning.effort, "summary": reasoning.summary},
        "max_output_tokens": body.max_output_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_logprobs": sampling.top_logprobs,
        "truncation": "disabled",
        "background": False,
        "store": request.query.store,
        "metadata": {name: str(value) for name, value in (body.metadata or {}).items()},
        "user": body.user,
        "safety_identifier": body.safety_identifier,
        "prompt_cache_key": body.prompt_cache_key,
        "service_tier": "default",
    }
