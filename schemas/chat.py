"""What a client sends: messages, tools, and how to sample the answer.

Ranges follow the OpenAI chat-completions reference; every bound is checked on decoding, so a bad value is
refused at the edge with the field's name.
"""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from schemas.base import END, Integer, WireStruct

Role = Literal["system", "user", "assistant", "tool"]

MAX_CANDIDATES = 8
"""Upper bound of ``n`` and of the candidates of a turn: an unbounded ``n`` is a denial of service."""


MAX_TOKENS = 2**20
"""Upper bound of the tokens of one answer; the worker ends it at the model's context."""

TokenId = Annotated[str, Meta(pattern=rf"^[0-9]{{1,7}}{END}")]

MAX_STOPS = 16

RepetitionPenalty = Annotated[float, Meta(ge=0.01, le=2.0)]
"""What a logit is divided by, or multiplied with: divided by less, it is no number in 16 bits any more."""

Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
LogitBias = Annotated[float, Meta(ge=-100.0, le=100.0)]
"""What is added to a token's logit."""

MAX_TOOLS = 128
ToolName = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9_.-]{{1,128}}{END}")]


class Tool(WireStruct, frozen=True, kw_only=True):
    """A function that the model may ask the client to call; ``parameters`` is the text of a JSON Schema."""

    name: ToolName
    description: str = ""
    parameters: Annotated[str, Meta(max_length=65536)] = '{"type": "object", "properties": {}}'


class ToolCall(WireStruct, frozen=True, kw_only=True):
    """A call that the model asks the client to make; ``arguments`` is the text of a JSON object."""

    id: Annotated[str, Meta(min_length=1, max_length=16384)]
    name: ToolName
    arguments: str


class Tooling(WireStruct, frozen=True, kw_only=True):
    """The tools that one answer may call.

    ``required``: the answer must be a call. ``forced``: the tool that it must call. ``parallel``: whether one answer
    may hold several calls.
    """

    tools: Annotated[tuple[Tool, ...], Meta(min_length=1, max_length=MAX_TOOLS)]
    required: bool = False
    forced: ToolName | None = None
    parallel: bool = True

    @property
    def must_call(self) -> bool:
        """Whether the answer must be a tool call."""
        return self.required or self.forced is not None


class Message(WireStruct, frozen=True, kw_only=True):
    """One chat message; ``content`` is text (special tokens in it are plain text).

    An assistant's message may carry ``tool_calls``; the answer to one comes back in the role "tool", with its id in
    ``tool_call_id``.
    """

    role: Role
    content: str
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


def last_user_text(messages: Sequence[Message]) -> str:
    """The text of the last user message; empty without any."""
    return next((message.content for message in reversed(messages) if message.role == "user"), "")


def digest_transcript(messages: Sequence[Message]) -> str:
    """A digest of a conversation: who said what and which tools were called, without white space around the texts,
    names and ids."""
    digest = hashlib.sha256()
    for message in messages:
        calls = [[call.name, call.arguments] for call in message.tool_calls]
        digest.update(msgspec.json.encode([message.role, message.content.strip(), calls]))
    return digest.hexdigest()


def with_answer(messages: Sequence[Message], answer: str) -> tuple[Message, ...]:
    """The conversation with its answer; one that continues the assistant's last message is one with it."""
    last = messages[-1]
    if last.role == "assistant" and not last.tool_calls:
        return (*messages[:-1], msgspec.structs.replace(last, content=last.content + answer))
    return (*messages, Message(role="assistant", content=answer))


def transcript_so_far(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages up to the last answer, which is the last message of the assistant that is no tool call; none before
    the first answer."""
    answers = [at for at, message in enumerate(messages) if message.role == "assistant" and not message.tool_calls]
    return tuple(messages[: answers[-1] + 1]) if answers else ()


class Sampling(WireStruct, frozen=True, kw_only=True):
    """How to decode. ``seed`` is always set once a turn is on the bus, so that a replay can repeat it.

    ``logit_bias`` is by token id, in decimal. ``json_schema`` is the text of a JSON Schema that the answer must follow.
    ``logprobs`` asks for each token's log-probability, ``top_logprobs`` for so many likeliest ones beside it.
    """

    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] = 256
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] = 0.0
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    top_k: Annotated[int, Meta(ge=0, le=1000)] = 0
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    stop: Annotated[tuple[str, ...], Meta(max_length=MAX_STOPS)] = ()
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    repetition_penalty: RepetitionPenalty = 1.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: Annotated[dict[TokenId, LogitBias], Meta(max_length=300)] = {}
    logprobs: bool = False
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] = 0
    json_schema: Annotated[str, Meta(max_length=65536)] | None = None


class Usage(WireStruct, frozen=True, kw_only=True):
    """Tokens that were processed, counted by the worker's tokenizer."""

    prompt_tokens: Integer = 0
    completion_tokens: Integer = 0

    @property
    def total_tokens(self) -> int:
        """Prompt plus completion."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
        )
