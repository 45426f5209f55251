"""micro-kiki's worker and its rival ``mlx_lm.server`` on the same model and prompts, each in a process of its own.

Both get float32 weights and, on Linux CPUs, the same BLAS, so that the engines are compared. Each client
asks one question after the other; the time to the first token ends when the first text reaches the client.
"""

import contextlib
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import httpx
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random

from agents.inference.mlx import cpu
from bus.connection import Bus
from schemas.chat import Message, Sampling
from schemas.envelope import new_turn
from schemas.errors import Unavailable
from schemas.events import InferDone, InferToken, QueryRouted, RecallDone
from schemas.findings import AdapterUse, Plan, Query, Recall, Route

TIMEOUT = 300.0
"""Seconds that one request may take."""

TRIES = 50
"""How often one request is tried, when its connection is reset, before the rival counts as gone."""

_SUBJECTS = ("river", "bridge", "clock", "garden", "engine", "violin", "harbour", "desert", "library", "glacier")


@dataclass(frozen=True)
class Reply:
    """One answered request: completion tokens, and seconds to the first text and to the end."""

    tokens: int
    first: float
    total: float


@dataclass(frozen=True)
class Throughput:
    """A run: tokens a second over all clients, and the median time to the first token in seconds."""

    tokens_per_second: float
    first_token: float
    requests: int
    tokens: int


def merge_rounds(rounds: Sequence[Throughput]) -> Throughput:
    """Several rounds as one run; the time to the first token is the median of the rounds' medians."""
    tokens = sum(rate.tokens for rate in rounds)
    seconds = sum(rate.tokens / rate.tokens_per_second for rate in rounds)
    first = statistics.median(rate.first_token for rate in rounds)
    return Throughput(tokens / seconds, first, sum(rate.requests for rate in rounds), tokens)


Contestant = Callable[[str, str | None, int], Awaitable[Reply]]
"""Answers a prompt: takes the prompt, an adapter and the most tokens, and returns the reply."""


def prompts(count: int, *, first: int = 0) -> list[str]:
    """Prompts that share no beginning beyond the template."""
    return [
        f"{number} facts, please: write about a {_SUBJECTS[number % len(_SUBJECTS)]} number {number}."
        for number in range(first, first + count)
    ]


async def race(
    ask: Contestant,
    questions: Sequence[str],
    *,
    concurrency: int,
    max_tokens: int,
    adapters: Sequence[str | None] = (None,),
) -> Throughput:
    """Ask all questions with ``concurrency`` clients, which take the ``adapters`` in turn."""
    queue = list(enumerate(questions))[::-1]
    replies: list[Reply] = []

    async def client() -> None:
        while queue:
            number, question = queue.pop()
            replies.append(await ask(question, adapters[number % len(adapters)], max_tokens))

    started = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(concurrency):
            tasks.start_soon(client)
    seconds = time.perf_counter() - started
    tokens = sum(reply.tokens for reply in replies)
    first = statistics.median(reply.first for reply in replies)
    return Throughput(tokens / seconds, first, len(replies), tokens)


def worker_contestant(bus: Bus) -> Contestant:
    """A contestant that asks micro-kiki's worker by the event with which a turn of level raw reaches it."""

    async def ask(question: str, adapter: str | None, max_tokens: int) -> Reply:
        envelope = new_turn(tenant="bench", timeout=TIMEOUT)
        query = Query(
            model="bench",
            messages=(Message(role="user", content=question),),
            sampling=Sampling(max_tokens=max_tokens),
            level="raw",
        )
        uses = (AdapterUse(name=adapter),) if adapter else ()
        route = Route(domains=(), adapters=uses, intent="bench", plan=Plan(level="raw"))
        query_routed = QueryRouted(envelope=envelope, query=query, route=route)
        started, first = time.perf_counter(), 0.0
        kinds = (InferToken, InferDone)
        async with bus.follow(envelope, kinds=kinds) as events:
            await bus.publish(
                RecallDone(envelope=query_routed.envelope.next("recall"), query=query, route=route, recall=Recall())
            )
            while True:
                event = await events.next()
                first = first or (time.perf_counter() - started if isinstance(event, InferToken) else 0.0)
                if isinstance(event, InferDone):
                    total = time.perf_counter() - started
                    return Reply(event.inference.usage.completion_tokens, first or total, total)

    return ask


@dataclass(frozen=True)
class HttpContestant:
    """Asks a server with OpenAI's interface; ``fields`` are sent beside the prompt, ``name`` stands in errors.

    Without ``adapters``, their folder, it answers by the base. ``log``: the server's log, when it is ours.

    A server's listening socket may have room for few connections (``mlx_lm.server``: five). A request that is reset is
    asked again, and only the last try is timed.

    Asking raises:
        Unavailable: the server refuses, or the last try broke off as well; with the end of its log.
    """

    client: httpx.AsyncClient
    name: str
    fields: dict[str, Any]
    adapters: Path | None = None
    log: Path | None = None

    async def __call__(self, question: str, adapter: str | None, max_tokens: int) -> Reply:
        """One reply; its tokens are those that the server counts, or the chunks with text where it counts none."""
        try:
            return await self._ask_once(question, adapter, max_tokens)
        except httpx.TransportError as error:
            log = _log_tail(self.log) if self.log is not None else ""
            raise Unavailable(f"{self.name} broke off ({error!r}): {log}") from error

    @retry(
        retry=retry_if_exception_type(httpx.TransportError),
        wait=wait_random(0.02, 0.2),
        stop=stop_after_attempt(TRIES),
        reraise=True,
    )
    async def _ask_once(self, question: str, adapter: str | None, max_tokens: int) -> Reply:
        body: dict[str, Any] = {
            **self.fields,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if adapter is not None and self.adapters is not None:
            body["adapters"] = str(self.adapters / adapter)
        started, first, tokens, chunks = time.perf_counter(), 0.0, 0, 0
        async with self.client.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != httpx.codes.OK:
                raise Unavailable(f"{self.name}: {(await response.aread())[:200]!r}")
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line[6:])
                if any(choice.get("delta", {}).get("content") for choice in chunk.get("choices", ())):
                    first, chunks = first or time.perf_counter() - started, chunks + 1
                tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
        total = time.perf_counter() - started
        return Reply(tokens or chunks, first or total, total)


def rival_contestant(client: httpx.AsyncClient, model: Path, adapters: Path, log: Path) -> Contestant:
    """A contestant that asks an ``mlx_lm.server``. It ignores ``adapters`` unless a request has the model's path."""
    return HttpContestant(client, "mlx_lm.server", {"model": str(model)}, adapters, log)


@contextlib.asynccontextmanager
async def reach_llama(url: str | None) -> AsyncIterator[Contestant | None]:
    """A contestant that asks a llama.cpp server which somebody has started at ``url``; None without one.

    Raises:
        Unavailable: no such server answers.
    """
    if url is None:
        yield None
        return
    async with httpx.AsyncClient(base_url=url.rstrip("/").removesuffix("/v1"), timeout=TIMEOUT) as client:
        try:
            (await client.get("/v1/models")).raise_for_status()
        except httpx.HTTPError as error:
            raise Unavailable(f"no llama.cpp server answers at {url} ({error!r}).") from error
        yield HttpContestant(client, "llama.cpp", {"model": "default", "temperature": 0.0})


@contextlib.asynccontextmanager
async def run_rival(model: Path, log: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A running ``mlx_lm.server``.

    Raises:
        Unavailable: the server does not come up.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(model), "--port", str(port)]
    with log.open("wb") as sink:
        process = await anyio.open_process(command, stdout=sink, stderr=sink, env=_rival_environment())
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT) as client:
                await _wait_until_up(client, process, log)
                yield client
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with anyio.CancelScope(shield=True):
                await process.wait()


async def _wait_until_up(client: httpx.AsyncClient, process: anyio.abc.Process, log: Path) -> None:
    with anyio.move_on_after(120):
        while process.returncode is None:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get("/v1/models")).status_code == httpx.codes.OK:
                    return
            await anyio.sleep(0.2)
    raise Unavailable(f"mlx_lm.server did not start: {_log_tail(log)}")


def _log_tail(log: Path) -> str:
    return log.read_text(errors="replace")[-600:]


def _rival_environment() -> dict[str, str]:
    """This process's environment; on a Linux CPU with the BLAS that micro-kiki's worker loads, and as many threads."""
    library = cpu.torch_library()
    if not sys.platform.startswith("linux") or library is None:
        return dict(os.environ)
    return {**cpu.environment(), **os.environ, "LD_PRELOAD": str(library)}
