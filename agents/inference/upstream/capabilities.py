"""What this server does, found by asking it: servers that speak the same interface leave different parts of it out.

A parameter that a server does not know is often ignored without a word, so nothing is believed that a probe did not
show.
"""

import json
from typing import Any

import msgspec
import openai
from openai import AsyncOpenAI

from agents.inference.upstream.failures import lost, translated
from agents.inference.upstream.response import drawn
from schemas.errors import KikiError

TOP_LOGPROBS = (20, 10, 5)
"""How many likeliest tokens to ask for, the most first; servers cap it differently."""
_ASKED = [{"role": "user", "content": "Hello."}]
_WORD = "kiki-constrained"


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What the server was seen to do.

    Attributes:
        stream_logprobs: log-probabilities of the drawn tokens while streaming.
        whole_logprobs: the same in one reply.
        token_texts: with them the texts of the tokens, without which they cannot be told to a client.
        top_logprobs: how many likeliest tokens a reply carries at most.
        prompt_logprobs: log-probabilities of the prompt's own tokens (vLLM), which score a choice exactly.
        stops: a stop string ends the answer, wherever its letters fall; where it does not, this side ends it.
        schemas: answers follow a JSON schema.
        tools: the template tells the model the tools.
        forced_tools: a call that must come does.
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

    @property
    def words(self) -> str:
        """The names of what it does, for the status."""
        return " ".join(name for name, value in msgspec.structs.asdict(self).items() if value)


async def probe(client: AsyncOpenAI, model: str) -> Capabilities:
    """Decode a few tokens, each time with one thing more.

    Raises:
        Unavailable: the server is away.
        StageFailed: it refuses even the plainest request.
    """
    asker = _Asker(client, model)
    plain = await asker.plain()
    told_of = drawn(await asker.tried(logprobs=True))
    top = 0
    for count in TOP_LOGPROBS if told_of else ():
        found = drawn(await asker.tried(logprobs=True, top_logprobs=count))
        top = max(top, *(len(one.get("top_logprobs") or ()) for one in found)) if found else top
        if top:
            break
    told = await asker.tried(extra_body={"prompt_logprobs": 0})
    called = await asker.called()
    return Capabilities(
        stream_logprobs=await asker.streamed(),
        whole_logprobs=bool(told_of),
        token_texts=bool(told_of) and all(isinstance(one.get("token"), str) for one in told_of),
        top_logprobs=top,
        prompt_logprobs=bool(told and told.get("prompt_logprobs")),
        stops=await asker.stopped(_content(plain)),
        schemas=await asker.constrained(),
        tools=_prompt_tokens(called) > _prompt_tokens(plain),
        forced_tools=bool(called) and '"tool_calls": [{' in json.dumps(called),
    )


class _Asker:
    def __init__(self, client: AsyncOpenAI, model: str) -> None:
        self._completions: Any = client.chat.completions  # bodies are put together, which its overloads cannot follow
        self._asked: dict[str, Any] = {"model": model, "messages": _ASKED, "max_tokens": 1, "temperature": 0.0}

    async def plain(self) -> dict[str, Any]:
        """Readiness is a decoded token; a few, so that there is text."""
        return await self._whole(**{**self._asked, "max_tokens": 8})

    async def tried(self, **more: Any) -> dict[str, Any] | None:
        """The reply to the plain request with ``more``; None if the server refuses that."""
        try:
            return await self._whole(**{**self._asked, **more})
        except KikiError as error:
            if lost(error):
                raise
            return None

    async def streamed(self) -> bool:
        """Whether a stream carries log-probabilities."""
        try:
            stream = await self._completions.create(**self._asked, logprobs=True, stream=True)
            async with stream:
                return any([bool(drawn(chunk.model_dump(warnings=False))) async for chunk in stream])
        except openai.OpenAIError as error:
            translated_ = translated(error)
            if lost(translated_):
                raise translated_ from error
            return False

    async def stopped(self, text: str) -> bool:
        """Whether letters out of the middle of ``text``, which it answered without, end the answer before them."""
        if len(text) < 4:
            return False
        found = await self.tried(max_tokens=8, stop=[text[1:3]])
        return _content(found) == text[: text.index(text[1:3])]

    async def constrained(self) -> bool:
        """Whether a schema that allows one unlikely word brings that word."""
        schema: dict[str, Any] = {"type": "object", "properties": {_WORD: {"type": "null"}}, "required": [_WORD]}
        schema["additionalProperties"] = False
        form = {"type": "json_schema", "json_schema": {"name": "probe", "schema": schema, "strict": True}}
        found = await self.tried(response_format=form, max_tokens=16)
        return _WORD in _content(found)

    async def called(self) -> dict[str, Any] | None:
        """The reply to a call that must come: its prompt is longer by the tool, and it is a call."""
        function = {"name": "greet", "description": "Greets.", "parameters": {"type": "object", "properties": {}}}
        forced = {"type": "function", "function": {"name": "greet"}}
        tools = [{"type": "function", "function": function}]
        return await self.tried(tools=tools, tool_choice=forced, max_tokens=16)

    async def _whole(self, **body: Any) -> dict[str, Any]:
        try:
            found: dict[str, Any] = (await self._completions.create(**body)).model_dump(warnings=False)
        except openai.OpenAIError as error:
            raise translated(error) from error
        return found


def _prompt_tokens(reply: dict[str, Any] | None) -> int:
    return int(((reply or {}).get("usage") or {}).get("prompt_tokens") or 0)


def _content(reply: dict[str, Any] | None) -> str:
    choices = (reply or {}).get("choices") or []
    return str((choices[0].get("message") or {}).get("content") or "") if choices else ""
