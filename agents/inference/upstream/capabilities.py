"""Finds out by probing what a server can do: servers with the same interface leave different parts of it out.

Servers often ignore an unknown parameter silently, so only what a probe showed counts.
"""

import json
from typing import Any

import msgspec
import openai
from openai import AsyncOpenAI

from agents.inference.upstream.failures import is_outage, translate_error
from agents.inference.upstream.response import chat_form, token_entries
from schemas.errors import KikiError

TOP_LOGPROBS = (20, 10, 5)
"""How many likeliest tokens to ask for, the most first; servers cap it differently."""
_MESSAGES = [{"role": "user", "content": "Hello."}]
_WORD = "kiki-constrained"


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What the server was seen to do.

    Attributes:
        stream_logprobs: log-probabilities of the drawn tokens while streaming.
        whole_logprobs: the same in one reply.
        token_texts: with them the texts of the tokens, without which they cannot be sent to a client.
        top_logprobs: how many likeliest tokens a reply carries at most.
        prompt_logprobs: log-probabilities of the prompt's own tokens (vLLM), which score a choice exactly.
        stops: a stop string ends the answer, wherever its letters fall; where it does not, this
            process cuts the answer.
        schemas: answers follow a JSON schema.
        tools: the template tells the model the tools.
        forced_tools: a required tool call is made.
        continues: an assistant's message at the end is gone on with, where the request asks for it (vLLM).
        completions: a text is continued without a chat template.
        echo: with its tokens' log-probabilities, where that is asked for.
    """

    stream_logprobs: bool = False
    whole_logprobs: bool = False
    token_texts: bool = False
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    stops: bool = False
    schemas: bool = False
    tools: bool = False
    forced_tools: bool = False
    continues: bool = False
    completions: bool = False
    echo: bool = False

    @property
    def names(self) -> str:
        """The names of the capabilities that the server has, for the status."""
        return " ".join(name for name, value in msgspec.structs.asdict(self).items() if value)


async def probe(client: AsyncOpenAI, model: str) -> Capabilities:
    """Send small requests, each of which tries one capability.

    Raises:
        Unavailable: the server is away.
        StageFailed: it refuses even the plainest request.
    """
    prober = _Prober(client, model)
    plain = await prober.ask_plainly()
    entries = token_entries(await prober.ask_with(logprobs=True))
    top = 0
    for count in TOP_LOGPROBS if entries else ():
        top_entries = token_entries(await prober.ask_with(logprobs=True, top_logprobs=count))
        top = max(top, *(len(entry.get("top_logprobs") or ()) for entry in top_entries)) if top_entries else top
        if top:
            break
    prompt_reply = await prober.ask_with(extra_body={"prompt_logprobs": 0})
    call_reply = await prober.request_call()
    echo_reply = await prober.continue_text(echo=True, logprobs=1)
    return Capabilities(
        stream_logprobs=await prober.check_stream(),
        whole_logprobs=bool(entries),
        token_texts=bool(entries) and all(isinstance(entry.get("token"), str) for entry in entries),
        top_logprobs=top,
        prompt_logprobs=bool(prompt_reply and prompt_reply.get("prompt_logprobs")),
        stops=await prober.check_stop(_content(plain)),
        schemas=await prober.check_schema(),
        tools=_prompt_tokens(call_reply) > _prompt_tokens(plain),
        forced_tools=bool(call_reply) and '"tool_calls": [{' in json.dumps(call_reply),
        continues=await prober.check_continuation(),
        completions=bool(echo_reply or await prober.continue_text()),
        echo=len(token_entries(echo_reply)) > 1,
    )


class _Prober:
    def __init__(self, client: AsyncOpenAI, model: str) -> None:
        # bodies are put together, which the overloads of the two cannot follow
        self._completions: Any = client.chat.completions
        self._continuations: Any = client.completions
        self._plain_request: dict[str, Any] = {
            "model": model,
            "messages": _MESSAGES,
            "max_tokens": 1,
            "temperature": 0.0,
        }

    async def ask_plainly(self) -> dict[str, Any]:
        """The reply to the plain request: a few tokens, so that there is text. When it comes, the server is
        ready."""
        return await self._complete(**{**self._plain_request, "max_tokens": 8})

    async def ask_with(self, **more: Any) -> dict[str, Any] | None:
        """The reply to the plain request with ``more``; None if the server refuses that."""
        try:
            return await self._complete(**{**self._plain_request, **more})
        except KikiError as error:
            if is_outage(error):
                raise
            return None

    async def check_stream(self) -> bool:
        """Whether a stream carries log-probabilities."""
        try:
            stream = await self._completions.create(**self._plain_request, logprobs=True, stream=True)
            async with stream:
                return any([bool(token_entries(chunk.model_dump(warnings=False))) async for chunk in stream])
        except openai.OpenAIError as error:
            failure = translate_error(error)
            if is_outage(failure):
                raise failure from error
            return False

    async def check_stop(self, text: str) -> bool:
        """Whether a stop string from the middle of ``text``, the answer without one, ends the answer before it."""
        if len(text) < 4:
            return False
        reply = await self.ask_with(max_tokens=8, stop=[text[1:3]])
        return _content(reply) == text[: text.index(text[1:3])]

    async def check_schema(self) -> bool:
        """Whether a schema that allows one unlikely word brings that word."""
        schema: dict[str, Any] = {"type": "object", "properties": {_WORD: {"type": "null"}}, "required": [_WORD]}
        schema["additionalProperties"] = False
        form = {"type": "json_schema", "json_schema": {"name": "probe", "schema": schema, "strict": True}}
        reply = await self.ask_with(response_format=form, max_tokens=16)
        return _WORD in _content(reply)

    async def check_continuation(self) -> bool:
        """Whether the prompt gets shorter when the answer is to go on within the assistant's message."""
        messages = [*_MESSAGES, {"role": "assistant", "content": "Hello, I"}]
        fields = {"add_generation_prompt": False, "continue_final_message": True}
        closed = await self.ask_with(messages=messages)
        opened = await self.ask_with(messages=messages, extra_body=fields)
        return 0 < _prompt_tokens(opened) < _prompt_tokens(closed)

    async def request_call(self) -> dict[str, Any] | None:
        """The reply to a request with a forced tool, which shows whether the prompt grew by the tool and a call
        came."""
        function = {"name": "greet", "description": "Greets.", "parameters": {"type": "object", "properties": {}}}
        tool_choice = {"type": "function", "function": {"name": "greet"}}
        tools = [{"type": "function", "function": function}]
        return await self.ask_with(tools=tools, tool_choice=tool_choice, max_tokens=16)

    async def continue_text(self, **more: Any) -> dict[str, Any] | None:
        """The reply to a text that is to be continued by one token; None if the server refuses that."""
        plain = {name: value for name, value in self._plain_request.items() if name != "messages"}
        try:
            reply = await self._continuations.create(**plain, prompt="Hello.", **more)
        except openai.OpenAIError as error:
            failure = translate_error(error)
            if is_outage(failure):
                raise failure from error
            return None
        return chat_form(reply.model_dump(warnings=False))

    async def _complete(self, **body: Any) -> dict[str, Any]:
        try:
            reply: dict[str, Any] = (await self._completions.create(**body)).model_dump(warnings=False)
        except openai.OpenAIError as error:
            raise translate_error(error) from error
        return reply


def _prompt_tokens(reply: dict[str, Any] | None) -> int:
    return int(((reply or {}).get("usage") or {}).get("prompt_tokens") or 0)


def _content(reply: dict[str, Any] | None) -> str:
    choices = (reply or {}).get("choices") or []
    return str((choices[0].get("message") or {}).get("content") or "") if choices else ""
