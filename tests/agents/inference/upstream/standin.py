"""A small server that stands in for vLLM, for features that ``mlx_lm.server`` lacks and vLLM needs a GPU for.

It has LoRA modules that come and go, log-probabilities of prompts and in streams, schemas that are followed, and
refusals by status. It answers ``I am MODEL.``, a word a token.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

BASE = "base-model"
CONTEXT = 64
"""Words that a prompt may have."""


@dataclass
class StandIn:
    """The server's state, and its address once it runs.

    Attributes:
        loras: paths of the loaded LoRA modules, by name.
        paths: the paths from which a module can be loaded.
        bodies: bodies of the requests for text so far.
        abandoned: streams that their reader left.
        status: while it is set, chat requests and the list of models are answered with this status.
        lists_nothing: the list of models is an empty reply.
        counts: it has vLLM's ``/tokenize``.
        endless: streams do not end by themselves.
        silent: nothing is answered.
        context: the length of the context that the list of models tells; None tells none.
        port: the port; 0 takes a free one.
        breaks_after: streams break off after so many tokens.
    """

    loras: dict[str, str] = field(default_factory=dict)
    paths: frozenset[str] = frozenset({"/adapters/rust", "/adapters/sql"})
    bodies: list[dict[str, Any]] = field(default_factory=list)
    abandoned: int = 0
    status: int | None = None
    lists_nothing: bool = False
    counts: bool = True
    endless: bool = False
    silent: bool = False
    context: int | None = None
    port: int = 0
    breaks_after: int | None = None

    def reset(self) -> None:
        """Go back to the state at the start; the port stays."""
        self.loras.clear()
        self.bodies.clear()
        self.abandoned, self.status, self.endless, self.breaks_after, self.lists_nothing = 0, None, False, None, False
        self.silent, self.context, self.counts = False, None, True

    @property
    def url(self) -> str:
        """The address up to and with ``/v1``."""
        return f"http://127.0.0.1:{self.port}/v1"

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator["StandIn"]:
        """Serve on a free port, or on the one from before."""
        # asyncio sends without delay only where the socket names its protocol
        with socket.socket(proto=socket.IPPROTO_TCP) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            self.port = listener.getsockname()[1]
            server = uvicorn.Server(uvicorn.Config(_app(self), log_level="error", timeout_graceful_shutdown=1))
            task = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                while not server.started:
                    await anyio.sleep(0.01)
                yield self
            finally:
                server.should_exit = True
                with anyio.CancelScope(shield=True):
                    await task

    def text(self, body: dict[str, Any]) -> list[str]:
        """The tokens of the answer to ``body``."""
        if "prompt" in body:
            return [" is", " text", "."]
        form = (body.get("response_format") or {}).get("json_schema")
        if form:
            return [json.dumps(dict.fromkeys(form["schema"]["required"]))]
        last = body["messages"][-1]["content"]
        return ["I", " am", f" {body['model']}", "."] if last != "Think." else ["<think>", "hm", "</think>", "Yes"]

    def refusal(self, body: dict[str, Any]) -> Response | None:
        """What is wrong with ``body``, as vLLM says it."""
        if self.status is not None:
            return _error(self.status, "not now")
        if body["model"] not in (BASE, *self.loras):
            return _error(404, f"The model `{body['model']}` does not exist.")
        if _length(body) + body.get("max_tokens", 1) > CONTEXT:
            return _error(400, f"This model's maximum context length is {CONTEXT} tokens.")
        return None


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "error", "code": status}}, status)


def _entry(token: str, top: int) -> dict[str, Any]:
    likely = [{"token": word, "logprob": -0.5 - rank} for rank, word in enumerate((" KE", "RE", "N", token))]
    return {"token": token, "logprob": -0.25, "top_logprobs": likely[:top]}


def _app(state: StandIn) -> FastAPI:
    app = FastAPI()

    @app.get("/v1/models")
    async def models() -> Response:
        if state.status is not None:
            return _error(state.status, "not now")
        if state.lists_nothing:
            return Response(media_type="application/json")
        length = {} if state.context is None else {"max_model_len": state.context}
        return JSONResponse(
            {"object": "list", "data": [{"id": name, "object": "model", **length} for name in (BASE, *state.loras)]}
        )

    @app.post("/v1/load_lora_adapter")
    async def load(request: Request) -> Response:
        body = await request.json()
        name, path = body["lora_name"], body["lora_path"]
        if name in state.loras:
            return _error(400, f"The lora adapter '{name}' has already been loaded.")
        if path not in state.paths:
            return _error(404, f"No adapter found for '{path}'")
        state.loras[name] = path
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    @app.post("/v1/unload_lora_adapter")
    async def unload(request: Request) -> Response:
        name = (await request.json())["lora_name"]
        if state.loras.pop(name, None) is None:
            return _error(404, f"The lora adapter '{name}' cannot be found.")
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        body = await request.json()
        state.bodies.append(body)
        if not state.counts:
            return _error(404, "Not Found")
        return JSONResponse({"count": _length(body), "max_model_len": CONTEXT, "tokens": [1] * _length(body)})

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        body = await request.json()
        state.bodies.append(body)
        if (refusal := state.refusal(body)) is not None:
            return refusal
        while state.silent:
            await asyncio.sleep(0.01)
        tokens = _cut_tokens(state.text(body), body.get("stop") or [])
        most = body.get("max_tokens", CONTEXT)
        reason, tokens = "stop" if len(tokens) <= most else "length", tokens[:most]
        usage = {"prompt_tokens": _length(body), "completion_tokens": len(tokens)}
        if body.get("stream"):
            return StreamingResponse(_stream(state, body, tokens, reason, usage), media_type="text/event-stream")
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "message": {"role": "assistant"}}
        choice["message"]["content"] = "".join(tokens)
        if (call := _call(body)) is not None:
            choice |= {"message": {"role": "assistant", "content": None, "tool_calls": [call]}}
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [_entry(token, body.get("top_logprobs") or 0) for token in tokens]}
        reply = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"]}
        more = {"prompt_logprobs": _prompt_logprobs(body)} if "prompt_logprobs" in body else {}
        return JSONResponse({**reply, "choices": [choice], "usage": usage, **more})

    @app.post("/v1/completions")
    async def continue_text(request: Request) -> Response:
        body = await request.json()
        state.bodies.append(body)
        if (refusal := state.refusal(body)) is not None:
            return refusal
        drawn = _cut_tokens(state.text(body), body.get("stop") or [])[: body["max_tokens"]]
        tokens = [*(_words(body) if body.get("echo") else []), *drawn]
        usage = {"prompt_tokens": _length(body), "completion_tokens": len(drawn)}
        head = {"id": "1", "object": "text_completion", "created": 1, "model": body["model"], "usage": usage}
        if not body.get("stream"):
            return JSONResponse({**head, "choices": [_text_choice(body, tokens, "stop")]})
        choices = [*(_text_choice(body, [token], None) for token in tokens), _text_choice(body, [], "stop")]
        chunks = [f"data: {json.dumps({**head, 'choices': [choice]})}\n\n" for choice in choices]
        return PlainTextResponse("".join([*chunks, "data: [DONE]\n\n"]), media_type="text/event-stream")

    return app


def _text_choice(body: dict[str, Any], tokens: list[str], reason: str | None) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "text": "".join(tokens), "finish_reason": reason}
    if body.get("logprobs") is None:
        return choice
    tops = [{token: -0.25, "x": -2.0} for token in tokens]
    values = [None if body.get("echo") and not at else -0.25 for at in range(len(tokens))]
    return {**choice, "logprobs": {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops}}


def _words(body: dict[str, Any]) -> list[str]:
    """The tokens of a text that is to be continued: its words, or one letter for each id."""
    if isinstance(body["prompt"], str):
        first, *others = body["prompt"].split(" ")
        return [first, *(f" {word}" for word in others)]
    return [chr(ord("a") + token) for token in body["prompt"]]


def _cut_tokens(tokens: list[str], stops: list[str]) -> list[str]:
    """The tokens up to a stop string; the last one shortened where it falls inside."""
    text = "".join(tokens)
    end = min([text.index(stop) for stop in stops if stop in text], default=len(text))
    parts: list[str] = []
    for token in tokens:
        parts.append(token[: max(0, end - len("".join(parts)))])
    return [token for token in parts if token]


def _length(body: dict[str, Any]) -> int:
    """Tokens of the prompt: its words, its tools, and one that opens the answer unless one goes on."""
    if "prompt" in body:
        return len(_words(body))
    opening = 0 if body.get("continue_final_message") else 1
    words = sum(len(message["content"].split()) for message in body["messages"])
    return words + 10 * len(body.get("tools") or ()) + opening


def _call(body: dict[str, Any]) -> dict[str, Any] | None:
    """The tool call that answers a body with tools; None when its last message is a tool's answer."""
    if not body.get("tools") or body["messages"][-1]["role"] == "tool":
        return None
    function = {"name": body["tools"][0]["function"]["name"], "arguments": '{"city": "Paris"}'}
    return {"index": 0, "id": "call_1", "type": "function", "function": function}


def _prompt_logprobs(body: dict[str, Any]) -> list[Any]:
    """One entry a word, the first without; each letter of a word costs a tenth."""
    words = [word for message in body["messages"][:-1] for word in message["content"].split()]
    words = [*words, "<assistant>", *body["messages"][-1]["content"].split()]
    entries = [{str(at): {"logprob": -len(word) / 10, "decoded_token": f" {word}"}} for at, word in enumerate(words)]
    return [None, *entries[1:]]


async def _stream(
    state: StandIn, body: dict[str, Any], tokens: list[str], reason: str, usage: dict[str, int]
) -> AsyncIterator[bytes]:
    head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}

    def chunk(**choice: Any) -> bytes:
        return f"data: {json.dumps({**head, 'choices': [{'index': 0, **choice}]})}\n\n".encode()

    if (call := _call(body)) is not None:
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        yield chunk(delta={"tool_calls": [{**call, "function": {"name": name, "arguments": ""}}]}, finish_reason=None)
        for part in (arguments[:4], arguments[4:]):
            yield chunk(delta={"tool_calls": [{"index": 0, "function": {"arguments": part}}]}, finish_reason=None)
        tokens, reason = [], "tool_calls"
    try:
        for number, token in enumerate(tokens):
            if state.breaks_after == number:
                return
            logprobs = {"content": [_entry(token, body.get("top_logprobs") or 0)]} if body.get("logprobs") else None
            yield chunk(delta={"content": token}, logprobs=logprobs, finish_reason=None)
            await asyncio.sleep(0)
        while state.endless:
            yield chunk(delta={"content": " more"}, finish_reason=None)
            await asyncio.sleep(0.01)
        yield chunk(delta={}, finish_reason=reason)
        if (body.get("stream_options") or {}).get("include_usage"):
            yield f"data: {json.dumps({**head, 'choices': [], 'usage': usage})}\n\n".encode()
        yield b"data: [DONE]\n\n"
    except asyncio.CancelledError:
        state.abandoned += 1
        raise
