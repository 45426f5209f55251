"""The engine of this process: MLX on Metal, CUDA or a CPU, behind one thread."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import NoReturn

import anyio
from msgspec import structs

from agents.inference.adapters import administration
from agents.inference.mlx.consolidation import Consolidation
from agents.inference.mlx.decoder import Decoder
from agents.inference.mlx.processors import Grammars
from agents.inference.mlx.thread import ModelThread
from agents.inference.mlx.work import Work
from agents.inference.prompt import Prompt, PromptEncoder, common_start
from agents.inference.requests import OnPiece, Outcome, Request
from agents.inference.settings import InferenceSettings
from agents.inference.tools import described, schema_of
from agents.inference.training.exchange import sweep
from agents.inference.training.steps import Learnable, learnable
from bus.agent import Endpoint
from bus.connection import Bus
from schemas.adapters import AdapterInfo, AdapterListReply
from schemas.chat import Message
from schemas.consolidation import Example
from schemas.errors import InvalidInput, KikiError, SetupError
from schemas.findings import AdapterUse

SHORT = 4000
"""Characters of a prompt that is encoded at once, in about a millisecond; to ask a thread takes half of that."""


class MlxEngine:
    """:class:`agents.inference.engine.Engine` with a model of this process."""

    def __init__(self, settings: InferenceSettings) -> None:
        self.settings = settings
        self.thread = ModelThread(lambda: Decoder(settings), stall_seconds=settings.stall_seconds)
        self._reading = anyio.CapacityLimiter(2)
        self._encoding = anyio.CapacityLimiter(1)  # the encoder is not thread-safe

    async def start(self) -> None:
        """Load the model and decode one token.

        Raises:
            SetupError: the model or the adapters folder cannot be used.
        """
        if self.settings.adapters is not None and self.settings.adapters.is_dir():
            await anyio.to_thread.run_sync(lambda folder: sweep(folder, now=time.time()), self.settings.adapters)
        try:
            await self.thread.start()
        except SetupError:
            raise
        except Exception as error:
            raise SetupError(f"{self.settings.model} cannot be loaded: {error!r}.", param="model") from error

    async def stop(self) -> None:
        """End the thread after its current step."""
        await self.thread.stop()

    async def watch(self) -> NoReturn:
        """Raise when the thread has ended or hangs."""
        await self.thread.watch()

    @property
    def healthy(self) -> bool:
        """Whether the thread lives and makes steps."""
        return self.thread.healthy

    @property
    def gauges(self) -> dict[str, float]:
        """Counts and bytes."""
        return self.thread.decoder.gauges

    @property
    def info(self) -> dict[str, str]:
        """The device, and the adapters in the model now."""
        decoder = self.thread.decoder
        return {"device": decoder.device, "adapters": " ".join(use.name for use in decoder.bank.active)}

    @property
    def encoder(self) -> PromptEncoder:
        """Encodes prompts; not thread-safe."""
        return self.thread.decoder.encoder

    @property
    def grammars(self) -> Grammars:
        """Compiles JSON schemas."""
        return self.thread.decoder.grammars

    async def generate(self, request: Request, on_piece: OnPiece | None = None) -> Outcome:
        """Run a request; cancelling the caller stops the decoding before the next step.

        Raises:
            InvalidInput: the JSON schema, a tool, a choice, or the length of the messages.
            KikiError: adapter_failed, deadline_exceeded, or unavailable when the thread has ended.
        """
        self.thread.check()
        work = await self._work(request, live=on_piece is not None)
        self.thread.check()
        self.thread.call(lambda: self.thread.decoder.enqueue(work))
        try:
            while True:
                news = await work.inbox.get()
                if isinstance(news, Outcome):
                    return news
                if isinstance(news, KikiError):
                    raise news
                if on_piece is not None:
                    await on_piece(news)
        finally:
            work.unwanted = True

    @property
    def parameters(self) -> int:
        """Weights of the model."""
        return self.thread.decoder.parameters

    def registered(self, uses: Sequence[AdapterUse]) -> tuple[AdapterUse, ...]:
        """Those of ``uses`` that the folder holds."""
        return tuple(use for use in uses if self.thread.decoder.bank.registered(use.name))

    @property
    def prefetches(self) -> bool:
        """With a folder of adapters; without one a routed turn wakes nobody here."""
        return self.settings.adapters is not None

    async def prefetch(self, uses: tuple[AdapterUse, ...]) -> None:
        """Read the files of registered adapters beside the decoding, then make them resident between two steps.

        A failure is counted, and told by the requests that meet it.
        """
        await self._warm([use.name for use in uses])
        self.thread.call(lambda: self.thread.decoder.prefetch(uses))

    def forget(self) -> None:
        """Drop every kept prompt between two steps."""
        self.thread.call(lambda: self.thread.decoder.forget())

    async def adapters(self) -> AdapterListReply:
        """All registered adapters."""
        return await self.thread.ask(lambda: administration.listing(self.thread.decoder.bank))

    async def administer(self, verb: str, name: str, sha256: str = "") -> AdapterInfo:
        """One of :data:`agents.inference.adapters.administration.VERBS` on an adapter.

        Raises:
            StageFailed: code ``adapter_failed``.
        """
        if verb != "unload":
            await self._warm([name])
        return await self.thread.ask(lambda: self.thread.decoder.administer(verb, name, sha256))

    def consolidation(self, bus: Bus) -> Sequence[Endpoint]:
        """All of it."""
        return Consolidation(self.thread, self.learnable, bus).endpoints()

    async def learnable(self, examples: Sequence[Example]) -> list[Learnable]:
        """Examples in tokens, as the model meets them in a chat.

        Raises:
            InvalidInput: a question is longer than the context.
        """

        def encoded() -> list[Learnable]:
            asked = [self.encoder.encode((Message(role="user", content=one.context),)).tokens for one in examples]
            told = [(*self.encoder.plain(one.outcome), self.encoder.end) for one in examples]
            most = self.settings.train_tokens
            return [learnable(prompt, answer, most=most) for prompt, answer in zip(asked, told, strict=True)]

        return await anyio.to_thread.run_sync(encoded, limiter=self._encoding)

    async def _warm(self, names: Sequence[str]) -> None:
        self.thread.check()
        await anyio.to_thread.run_sync(self.thread.decoder.bank.warm, names, limiter=self._reading)

    async def _work(self, request: Request, *, live: bool) -> Work:
        """The request in tokens. A thread encodes what is long or has a grammar to compile: the loop must go on."""
        if not all(request.choices):
            raise InvalidInput("a choice is empty; each needs at least one character.", param="choices")
        if request.ballots and not request.choices:
            raise InvalidInput("ballots need choices.", param="choices")

        def encoded() -> Work:
            wanted = self._checked(request)
            prompt, tails = self._prompt(wanted)
            return Work(
                request=wanted,
                prompt=prompt,
                tails=tails,
                choices=tuple(tuple(self.encoder.plain(text)) for text in request.choices),
                loop=loop,
                inbox=asyncio.Queue(),
                live=live,
            )

        loop = asyncio.get_running_loop()
        characters = sum(len(one.content) for one in (*request.messages, *chain(*request.ballots)))
        plain = request.tooling is None and request.sampling.json_schema is None
        if plain and characters <= SHORT and self._encoding.available_tokens:
            return encoded()
        return await anyio.to_thread.run_sync(encoded, limiter=self._encoding)

    def _prompt(self, request: Request) -> tuple[Prompt, tuple[tuple[int, ...], ...]]:
        """What all rows begin with, and what each ballot goes on with; no tails where nothing is scored."""
        tooling, thinking = request.tooling, request.sampling.json_schema is None
        prompts = [
            self.encoder.encode((*request.messages, *ballot), tooling, thinking=thinking)
            for ballot in request.ballots or ((),)
        ]
        if not request.choices:
            return prompts[0], ()
        shared = common_start([prompt.tokens for prompt in prompts])
        return Prompt(tokens=shared), tuple(prompt.tokens[len(shared) :] for prompt in prompts)

    def _checked(self, request: Request) -> Request:
        """The request with the schema of a call that must come.

        Raises:
            InvalidInput: a JSON schema cannot be served; better told here than on the model's thread.
        """
        tooling = request.tooling
        try:
            if tooling is not None:
                described(tooling.tools)
            if tooling is not None and tooling.must_call:
                schema = schema_of(tooling)
                self.grammars.check(schema)
                return replace(request, sampling=structs.replace(request.sampling, json_schema=schema))
        except (InvalidInput, json.JSONDecodeError) as error:
            raise InvalidInput(f"a tool's parameters cannot be served: {error}", param="tools") from error
        if request.sampling.json_schema is not None:
            self.grammars.check(request.sampling.json_schema)
        return request
