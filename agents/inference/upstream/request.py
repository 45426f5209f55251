"""A request of ours as the body of one call. Pure."""

import json
import re
from collections.abc import Mapping
from typing import Any

from agents.inference.candidates import seed_of, temperature_of
from agents.inference.requests import Request
from agents.inference.tools import described
from bus.metrics import degraded
from schemas.chat import Message, Sampling, Tooling

SPECIAL = re.compile(r"<(?=\|[^|<>\s]{1,40}\|>|/?s>|/?think>|(?:start|end)_of_turn>|/?tool_call>)|\[(?=/?INST\])")
"""Where a special token of a usual chat template begins."""
_BREAK = "\u200b"
"""Zero width space: what is behind it cannot be tokenised as one special token."""


def body(
    request: Request, *, candidate: int, candidate_temperature: float, model: str, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Keyword arguments for the client: one candidate, because servers differ in what ``n`` does with seeds.

    ``fields`` are what the request's adapter adds.
    """
    asked = request.sampling
    temperature = temperature_of(asked, candidate, candidate_temperature=candidate_temperature)
    found: dict[str, Any] = {
        "model": model,
        "messages": [shown(message) for message in request.messages],
        "max_tokens": asked.max_tokens,
        "temperature": temperature,
        **_standard(asked),
        **_tools(request.tooling),
        "extra_body": {**_extra(asked), **fields},
    }
    if temperature:
        found["seed"] = seed_of(asked, candidate)  # a greedy answer needs none, and some servers batch only without
    return found


def shown(message: Message) -> dict[str, Any]:
    """A message as the upstream gets it; a special token spelt in it is broken, because there it would be one."""
    content = SPECIAL.sub(lambda found: found[0] + _BREAK, message.content)
    if content != message.content:
        degraded("upstream.special_tokens", "a message spells a special token; a zero width space breaks it")
    found: dict[str, Any] = {"role": message.role, "content": content}
    if message.name:
        found["name"] = message.name
    if message.tool_call_id:
        found["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        found["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return found


def _standard(asked: Sampling) -> dict[str, Any]:
    """What the interface itself knows, where it is not the default."""
    found: dict[str, Any] = {}
    if asked.top_p != 1.0:
        found["top_p"] = asked.top_p
    if asked.presence_penalty:
        found["presence_penalty"] = asked.presence_penalty
    if asked.frequency_penalty:
        found["frequency_penalty"] = asked.frequency_penalty
    if asked.logit_bias:
        found["logit_bias"] = asked.logit_bias
    if asked.json_schema is not None:
        schema = {"name": "answer", "schema": json.loads(asked.json_schema), "strict": True}
        found["response_format"] = {"type": "json_schema", "json_schema": schema}
    return found


def _tools(tooling: Tooling | None) -> dict[str, Any]:
    if tooling is None:
        return {}
    found: dict[str, Any] = {"tools": described(tooling.tools)}
    if tooling.forced is not None:
        found["tool_choice"] = {"type": "function", "function": {"name": tooling.forced}}
    elif tooling.required:
        found["tool_choice"] = "required"
    if not tooling.parallel:
        found["parallel_tool_calls"] = False
    return found


def _extra(asked: Sampling) -> dict[str, Any]:
    """What vLLM and mlx-lm know beyond the interface, by the same names."""
    found: dict[str, Any] = {}
    if asked.top_k:
        found["top_k"] = asked.top_k
    if asked.min_p:
        found["min_p"] = asked.min_p
    if asked.repetition_penalty != 1.0:
        found["repetition_penalty"] = asked.repetition_penalty
    return found
