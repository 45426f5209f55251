"""Turns a request into the body of one call. Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from agents.inference.arrangement import is_continued
from agents.inference.candidates import seed_of, temperature_of
from agents.inference.requests import Request
from agents.inference.tools import arguments_of, describe_tools
from bus.metrics import count_degraded
from schemas.chat import Message, Sampling, ToolCall, Tooling

SPECIAL = re.compile(r"<(?=\|[^|<>\s]{1,40}\|>|/?s>|/?think>|(?:start|end)_of_turn>|/?tool_call>)|\[(?=/?INST\])")
"""Where a special token of a usual chat template begins."""
_BREAK = "\u200b"
"""Zero width space: put into a special token, it keeps the text from being tokenised as one."""


def request_body(
    request: Request, *, candidate: int, candidate_temperature: float, model: str, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Keyword arguments for the client: for one candidate, because servers differ in how ``n`` uses seeds.

    ``fields`` are added for the request's adapter.
    """
    sampling = request.sampling
    temperature = temperature_of(sampling, candidate, candidate_temperature=candidate_temperature)
    arguments: dict[str, Any] = {
        "model": model,
        **_input_fields(request),
        "max_tokens": sampling.max_tokens,
        "temperature": temperature,
        **_standard_fields(sampling),
        **_tool_fields(request.tooling),
        "extra_body": {**_extra_fields(sampling), **fields},
    }
    if temperature:
        arguments["seed"] = seed_of(
            sampling, candidate
        )  # a greedy answer needs none, and some servers batch only without
    return arguments


def prompt_of(request: Request) -> str:
    """The text that is to be continued, without a chat template."""
    return request.messages[-1].content


def count_body(messages: Sequence[Message], tooling: Tooling | None, *, thinking: bool) -> dict[str, Any]:
    """The body of vLLM's call that counts the tokens of a conversation; its model is added by the connection."""
    tools = {"tools": describe_tools(tooling.tools)} if tooling is not None else {}
    return {
        "messages": [encode_message(message) for message in messages],
        "chat_template_kwargs": {"enable_thinking": thinking},
        **continuation_fields(messages),
        **tools,
    }


def encode_message(message: Message) -> dict[str, Any]:
    """A message for the upstream. A special token spelt in its text is broken up, or the server would treat it as
    one."""
    content = _break_special(message.content)
    fields: dict[str, Any] = {"role": message.role, "content": content}
    if message.name:
        fields["name"] = message.name
    if message.tool_call_id:
        fields["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        fields["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": _spell_arguments(call)}}
            for call in message.tool_calls
        ]
    return fields


def _input_fields(request: Request) -> dict[str, Any]:
    """The conversation, or what ``/v1/completions`` continues."""
    if (continuation := request.continuation) is None:
        return {"messages": [encode_message(message) for message in request.messages]}
    return {"prompt": list(continuation.tokens) or _break_special(prompt_of(request))}


def _break_special(text: str) -> str:
    broken = SPECIAL.sub(lambda match: match[0] + _BREAK, text)
    if broken != text:
        count_degraded("upstream.special_tokens", "a message spells a special token; a zero width space breaks it")
    return broken


def continuation_fields(messages: Sequence[Message]) -> dict[str, Any]:
    """Fields by which vLLM goes on within the assistant's message that is last."""
    return {"add_generation_prompt": False, "continue_final_message": True} if is_continued(messages) else {}


def _spell_arguments(call: ToolCall) -> str:
    """The arguments as servers can read them: an empty object where the client sent nothing or null."""
    return "{}" if arguments_of(call) == {} else call.arguments


def _standard_fields(sampling: Sampling) -> dict[str, Any]:
    """Fields of OpenAI's interface itself, where they are not the default."""
    fields: dict[str, Any] = {}
    if sampling.top_p != 1.0:
        fields["top_p"] = sampling.top_p
    if sampling.presence_penalty:
        fields["presence_penalty"] = sampling.presence_penalty
    if sampling.frequency_penalty:
        fields["frequency_penalty"] = sampling.frequency_penalty
    if sampling.logit_bias:
        fields["logit_bias"] = sampling.logit_bias
    if sampling.json_schema is not None:
        schema = {"name": "answer", "schema": json.loads(sampling.json_schema), "strict": True}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    return fields


def _tool_fields(tooling: Tooling | None) -> dict[str, Any]:
    if tooling is None:
        return {}
    fields: dict[str, Any] = {"tools": describe_tools(tooling.tools)}
    if tooling.forced is not None:
        fields["tool_choice"] = {"type": "function", "function": {"name": tooling.forced}}
    elif tooling.required:
        fields["tool_choice"] = "required"
    if not tooling.parallel:
        fields["parallel_tool_calls"] = False
    return fields


def _extra_fields(sampling: Sampling) -> dict[str, Any]:
    """Fields beyond OpenAI's interface that vLLM and mlx-lm know by the same names."""
    fields: dict[str, Any] = {}
    if sampling.top_k:
        fields["top_k"] = sampling.top_k
    if sampling.min_p:
        fields["min_p"] = sampling.min_p
    if sampling.repetition_penalty != 1.0:
        fields["repetition_penalty"] = sampling.repetition_penalty
    return fields
