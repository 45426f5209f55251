"""What a client asks of ``POST /v1/completions``: the body checked, and each of its prompts made a query."""

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from runtime.catalogue import Catalogue
from runtime.facade.chat.request import (
    ChatRequest,
    CheckedRequest,
    Count,
    Extension,
    ResponseFormat,
    StreamOptions,
    Tokens,
    check_request,
)
from runtime.facade.settings import FacadeSettings
from schemas.chat import MAX_STOPS, LogitBias, Message, Penalty, RepetitionPenalty, TokenId
from schemas.errors import InvalidInput
from schemas.findings import Continuation

MAX_PROMPTS = 32
"""Prompts of one request at most: each is a turn."""

DEFAULT_MAX_TOKENS = 16
"""Length of a completion, when the request does not say."""

UNSERVED: dict[str, tuple[Any, ...]] = {"suffix": (None, ""), "prompt_embeds": (None, [])}
"""Fields that would change the answer and are not served, each with the values that ask for nothing."""


class CompletionRequest(Struct, frozen=True, kw_only=True):
    """The body. Ranges are those of OpenAI's reference, and what peers take beyond it; ``top_k``, ``min_p``,
    ``repetition_penalty``, ``response_format`` and ``kiki`` are beside it."""

    model: str | None = None
    prompt: Any
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    max_tokens: Tokens | None = None
    n: Count | None = None
    best_of: int | None = None
    stop: str | Annotated[list[str], Meta(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: int | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    repetition_penalty: RepetitionPenalty | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[TokenId, LogitBias], Meta(max_length=300)] | None = None
    response_format: ResponseFormat | None = None
    user: str | None = None
    suffix: Any = None
    prompt_embeds: Any = None
    kiki: Extension = Extension()


@dataclass(frozen=True, kw_only=True)
class CheckedCompletion:
    """A checked request.

    ``turns`` are the prompts' own requests, in order; ``echo`` is whether each text begins with its prompt;
    ``text`` is False when nothing is asked for but the prompt; ``include_usage`` is whether a stream ends with the
    usage.
    """

    turns: tuple[CheckedRequest, ...]
    echo: bool
    text: bool
    include_usage: bool

    @property
    def first(self) -> CheckedRequest:
        """The first prompt's request; the others differ by their prompts alone."""
        return self.turns[0]


def check_completion(body: CompletionRequest, *, models: Catalogue, settings: FacadeSettings) -> CheckedCompletion:
    """Check the body and make each of its prompts a query.

    Raises:
        InvalidInput: a field is wrong or not served; ``param`` names it.
        UnknownModel: there is no model of that name.
    """
    _refuse_unserved(body)
    prompts = parse_prompts(body.prompt)
    most = min(MAX_PROMPTS, settings.max_in_flight)
    if len(prompts) > most:
        raise InvalidInput(f"there are {len(prompts)} prompts, and at most {most} in a request.", param="prompt")
    fields = _translate(body)
    turns = [
        check_request(
            fields,
            messages=(Message(role="user", content=prompt if isinstance(prompt, str) else ""),),
            limits=["prompt"],
            models=models,
            settings=settings,
            continuation=Continuation(tokens=() if isinstance(prompt, str) else prompt, echo=bool(body.echo)),
        )
        for prompt in prompts
    ]
    return CheckedCompletion(
        turns=tuple(turns),
        echo=bool(body.echo),
        text=body.max_tokens != 0,
        include_usage=bool((body.stream_options or StreamOptions()).include_usage),
    )


def parse_prompts(prompt: Any) -> list[str | tuple[int, ...]]:
    """The prompts, each a text or the ids of its tokens.

    Raises:
        InvalidInput: it is none of the forms that a prompt has; ``param`` names the place.
    """
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt and all(_is_token(item) for item in prompt):
        return [tuple(prompt)]
    if not isinstance(prompt, list) or not prompt:
        raise InvalidInput(f"'prompt' is {_PROMPT_FORMS}.", param="prompt")
    return [_parse_prompt(item, f"prompt[{index}]") for index, item in enumerate(prompt)]


_PROMPT_FORMS = "a text, a list of texts, a list of token ids, or a list of such lists, and not empty"


def _parse_prompt(item: Any, where: str) -> str | tuple[int, ...]:
    if isinstance(item, str):
        return item
    if isinstance(item, list) and item and all(_is_token(token) for token in item):
        return tuple(item)
    raise InvalidInput(f"'{where}' is no prompt; 'prompt' is {_PROMPT_FORMS}.", param=where)


def _is_token(item: Any) -> bool:
    return type(item) is int and item >= 0


def _translate(body: CompletionRequest) -> ChatRequest:
    """The fields that a completion has in common with a chat. What the model writes is the answer, reasoning or not."""
    if body.kiki.level not in (None, "raw"):
        raise InvalidInput("a completion is answered at level raw: leave 'kiki.level' out.", param="kiki.level")
    return ChatRequest(
        model=body.model,
        messages=[],
        max_tokens=body.max_tokens or (DEFAULT_MAX_TOKENS if body.max_tokens is None else 1),
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        logit_bias=body.logit_bias,
        logprobs=body.logprobs is not None,
        top_logprobs=body.logprobs,
        response_format=body.response_format,
        n=body.n,
        stop=body.stop,
        seed=body.seed,
        stream=body.stream,
        user=body.user,
        enable_thinking=False,
        kiki=msgspec.structs.replace(body.kiki, level="raw"),
    )


def _refuse_unserved(body: CompletionRequest) -> None:
    for name, neutral in UNSERVED.items():
        if getattr(body, name) not in neutral:
            raise InvalidInput(f"'{name}' is not supported: leave it out.", param=name)
    if body.best_of not in (None, body.n or 1):
        raise InvalidInput("'best_of' other than 'n' is not supported: leave it out.", param="best_of")
    if body.stream_options is not None and not body.stream:
        raise InvalidInput("'stream_options' needs 'stream': true.", param="stream_options")
