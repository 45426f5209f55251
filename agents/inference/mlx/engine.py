"""The engine of this process: MLX on Metal, CUDA or a CPU, behind one thread."""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import NoReturn

import anyio

from agents.inference.adapter_watch import AdapterWatch
from agents.inference.adapters import administration
from agents.inference.adapters.registration import RegisteredAdapters
from agents.inference.mlx.consolidation import Consolidation
from agents.inference.mlx.decoder import Decoder
from agents.inference.mlx.processors import Grammars
from agents.inference.mlx.thread import ModelThread
from agents.inference.mlx.work import Work
from agents.inference.prompt import Prompt, PromptEncoder, common_start
from agents.inference.requests import Acceptance, DecodingOutcome, OnAcceptance, OnPiece, Request
from agents.inference.settings import InferenceSettings
from agents.inference.tools import check_tools
from agents.inference.training.exchange import sweep
from agents.inference.training.steps import TrainingExample, make_training_example
from agents.shared.adapters.folders import STAGED
from agents.shared.adapters.verdicts import VerdictFolder
from bus.connection import Bus
from schemas.adapters import AdapterInfo, AdapterListReply
from schemas.chat import Message, Sampling, Tooling
from schemas.consolidation import Example
from schemas.errors import InvalidInput, KikiError, SetupError
from schemas.findings import AdapterUse, Continuation, Echo

SHORT = 4000
"""Prompts of at most so many characters are encoded on the event loop, in about a millisecond; handing one to a thread
would cost half of that."""


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
        """The device, how it holds the weights, the adapters in the model now, and all that are served."""
        decoder = self.thread.decoder
        registration = decoder.bank.registration
        return {
            "device": decoder.device,
            "weights": decoder.weights,
            "adapters": " ".join(use.name for use in decoder.bank.active),
            "registered": " ".join(filter(registration.is_served, registration.names)),
            **_list_verdicts(registration),
        }

    @property
    def encoder(self) -> PromptEncoder:
        """Encodes prompts; not thread-safe."""
        return self.thread.decoder.encoder

    @property
    def grammars(self) -> Grammars:
        """Compiles JSON schemas."""
        return self.thread.decoder.grammars

    async def generate(
        self, request: Request, on_piece: OnPiece | None = None, on_acceptance: OnAcceptance | None = None
    ) -> DecodingOutcome:
        """Run a request; cancelling the caller stops the decoding before the next step.

        Raises:
            InvalidInput: the JSON schema, a tool, a choice, a biased token, or the length of the messages.
            KikiError: adapter_failed, deadline_exceeded, or unavailable when the thread has ended.
        """
        self.thread.check()
        work = await self._make_work(request, live=on_piece is not None)
        if on_acceptance is not None:
            uses = self.filter_served(request.adapters)
            await self._require_adapters(uses)
            await on_acceptance(Acceptance(prompt_tokens=work.own_tokens, adapters=uses))
        self.thread.check()
        self.thread.call(lambda: self.thread.decoder.enqueue(work))
        try:
            with _cut_at(request.finish, work):
                while True:
                    update = await work.inbox.get()
                    if isinstance(update, DecodingOutcome):
                        return update
                    if isinstance(update, KikiError):
                        raise update
                    if on_piece is not None:
                        await on_piece(update)
        finally:
            work.unwanted = True

    async def _require_adapters(self, uses: Sequence[AdapterUse]) -> None:
        """Have the adapters read, unless they are resident.

        Raises:
            StageFailed: code ``adapter_failed``.
        """
        bank = self.thread.decoder.bank
        digests = {use.name: adapter.sha256 for use in uses if (adapter := bank.find_resident(use.name)) is not None}
        missing = [use for use in uses if use.name not in digests or use.sha256 not in ("", digests[use.name])]
        if missing:
            await self._warm([use.name for use in missing])
            await self.thread.ask(lambda: self.thread.decoder.load_adapters(missing))

    async def count_tokens(self, messages: Sequence[Message], tooling: Tooling | None, *, thinking: bool) -> int:
        """Tokens of the prompt that a conversation makes, however many there are.

        Raises:
            InvalidInput: the template refuses the messages.
            Unavailable: the thread has ended.
        """
        self.thread.check()
        return await anyio.to_thread.run_sync(
            lambda: self.encoder.count(messages, tooling, thinking=thinking), limiter=self._encoding
        )

    @property
    def parameters(self) -> int:
        """Weights of the model."""
        return self.thread.decoder.parameters

    @property
    def verdicts(self) -> VerdictFolder | None:
        """What the gates say of the folder's adapters; None without a folder."""
        return self.thread.decoder.bank.registration.verdicts

    def make_watch(self, bus: Bus) -> AdapterWatch | None:
        """What sees new weights in the folder; None without a folder."""
        registration = self.thread.decoder.bank.registration
        if registration.verdicts is None:
            return None
        return AdapterWatch(bus, registration, registration.verdicts, base_model=self.settings.model_name)

    def filter_served(self, uses: Sequence[AdapterUse]) -> tuple[AdapterUse, ...]:
        """The adapters among ``uses`` that the folder holds and the gates let through, in the same order."""
        return tuple(use for use in uses if self.thread.decoder.bank.registration.is_served(use.name))

    @property
    def prefetches(self) -> bool:
        """Whether there is a folder of adapters; without one there is nothing to prefetch."""
        return self.settings.adapters is not None

    async def prefetch(self, uses: tuple[AdapterUse, ...]) -> None:
        """Read the files of registered adapters on another thread, then make them resident between two steps.

        A failure is counted, and later requests with the adapter report it.
        """
        await self._warm([use.name for use in uses])
        self.thread.call(lambda: self.thread.decoder.prefetch(uses))

    def forget(self) -> None:
        """Drop every cached prompt between two steps."""
        self.thread.call(lambda: self.thread.decoder.forget())

    async def adapters(self) -> AdapterListReply:
        """All registered adapters."""
        return await self.thread.ask(lambda: administration.list_adapters(self.thread.decoder.bank))

    async def administer(self, verb: str, name: str, sha256: str = "") -> AdapterInfo:
        """Carry out one of :data:`agents.inference.adapters.administration.VERBS` on an adapter.

        Raises:
            StageFailed: code ``adapter_failed``.
        """
        if verb != "unload":
            await self._warm([name])
        return await self.thread.ask(lambda: self.thread.decoder.administer(verb, name, sha256))

    def consolidation(self, bus: Bus, worker: str) -> Consolidation:
        """All verbs of consolidation."""
        return Consolidation(self.thread, self.tokenize_examples, bus, worker=worker)

    async def tokenize_examples(self, examples: Sequence[Example]) -> list[TrainingExample]:
        """Encode examples as the model sees them in a chat.

        Raises:
            InvalidInput: a question is longer than the context.
        """

        def encode_examples() -> list[TrainingExample]:
            prompts = [
                self.encoder.encode((Message(role="user", content=example.context),)).tokens for example in examples
            ]
            answers = [(*self.encoder.encode_plain(example.outcome), self.encoder.end) for example in examples]
            most = self.settings.train_tokens
            return [
                make_training_example(prompt, answer, max_tokens=most)
                for prompt, answer in zip(prompts, answers, strict=True)
            ]

        return await anyio.to_thread.run_sync(encode_examples, limiter=self._encoding)

    async def _warm(self, names: Sequence[str]) -> None:
        self.thread.check()
        await anyio.to_thread.run_sync(self.thread.decoder.bank.warm, names, limiter=self._reading)

    async def _make_work(self, request: Request, *, live: bool) -> Work:
        """Encode a request. A long one, or one with a grammar to compile, is encoded on a thread to keep the loop
        free."""
        if not all(request.choices):
            raise InvalidInput("a choice is empty; each needs at least one character.", param="choices")
        if request.ballots and not request.choices:
            raise InvalidInput("ballots need choices.", param="choices")

        def encode_work() -> Work:
            self._check_biases(request.sampling)
            final_request = self._prepare_request(request)
            prompt, tails = self._encode_prompt(final_request)
            return Work(
                request=final_request,
                prompt=prompt,
                tails=tails,
                own_tokens=self._count_own_tokens(final_request, prompt),
                budget=max(1, min(request.sampling.max_tokens, self.encoder.context_tokens - len(prompt.tokens))),
                echo=self._make_echo(request, prompt),
                choices=tuple(tuple(self.encoder.encode_plain(text)) for text in request.choices),
                loop=loop,
                inbox=asyncio.Queue(),
                live=live,
            )

        loop = asyncio.get_running_loop()
        characters = sum(len(message.content) for message in (*request.messages, *chain(*request.ballots)))
        plain = request.tooling is None and request.sampling.json_schema is None
        if plain and characters <= SHORT and self._encoding.available_tokens:
            return encode_work()
        return await anyio.to_thread.run_sync(encode_work, limiter=self._encoding)

    def _encode_prompt(self, request: Request) -> tuple[Prompt, tuple[tuple[int, ...], ...]]:
        """The prompt that all rows begin with, and each ballot's tail behind it; no tails when there are no choices."""
        if request.continuation is not None:
            return self._encode_continuation(request.continuation, request.messages[-1].content), ()
        tooling, thinking = request.tooling, request.thinking and request.grammar is None
        prompts = [
            self.encoder.encode((*request.messages, *ballot), tooling, thinking=thinking)
            for ballot in request.ballots or ((),)
        ]
        if not request.choices:
            return prompts[0], ()
        start = common_start([prompt.tokens for prompt in prompts])
        return Prompt(tokens=start), tuple(prompt.tokens[len(start) :] for prompt in prompts)

    def _encode_continuation(self, continuation: Continuation, text: str) -> Prompt:
        if not continuation.tokens:
            return self.encoder.encode_text(text)
        size = self.thread.decoder.vocabulary.size
        if unknown := [token for token in continuation.tokens if token >= size]:
            raise InvalidInput(
                f"the prompt has the token {unknown[0]}, which is out of vocabulary: it has {size}; give lower ids.",
                param="prompt",
            )
        return self.encoder.check_tokens(continuation.tokens)

    def _make_echo(self, request: Request, prompt: Prompt) -> Echo | None:
        """What is continued, if the request asks for it; its log-probabilities come from the model."""
        continuation = request.continuation
        if continuation is None or not continuation.echo:
            return None
        if not continuation.tokens:
            return Echo(text=request.messages[-1].content)
        return Echo(text=self.thread.decoder.vocabulary.decode(prompt.tokens))

    def _count_own_tokens(self, request: Request, prompt: Prompt) -> int:
        """Tokens of the client's own messages, through the template."""
        if not request.own or request.own == request.messages:
            return len(prompt.tokens)
        thinking = request.thinking and request.grammar is None
        return self.encoder.count(request.own, request.tooling, thinking=thinking)

    def _check_biases(self, sampling: Sampling) -> None:
        size = self.thread.decoder.vocabulary.size
        if unknown := [token for token in sampling.logit_bias if int(token) >= size]:
            raise InvalidInput(
                f"logit_bias has the token '{unknown[0]}', which is out of vocabulary: it has {size}; give lower ids.",
                param="logit_bias",
            )

    def _prepare_request(self, request: Request) -> Request:
        """The request, with the grammar that its answer must follow. It is compiled here and not on the model's thread.

        Raises:
            InvalidInput: a JSON schema or a tool cannot be served.
        """
        tooling, schema = request.tooling, request.sampling.json_schema
        if tooling is not None:
            check_tools(tooling.tools)
        if tooling is not None and tooling.must_call:
            return replace(request, grammar=self.grammars.of_calls(tooling))
        return request if schema is None else replace(request, grammar=self.grammars.of_answer(schema))


@contextlib.contextmanager
def _cut_at(finish: float, work: Work) -> Iterator[None]:
    """Cut the work at the Unix time ``finish``, if it comes within this context."""
    if finish == float("inf"):
        yield
        return
    timer = work.loop.call_later(max(0.0, finish - time.time()), work.cut)
    try:
        yield
    finally:
        timer.cancel()


def _list_verdicts(registration: RegisteredAdapters) -> dict[str, str]:
    """Names of the adapters that the gates have not passed, by what they say; those never read wait."""
    if registration.verdicts is None:
        return {}
    names: dict[str, list[str]] = {"ungated": [], "waiting": [], "refused": []}
    for name in registration.names:
        with contextlib.suppress(KikiError):  # it may go meanwhile
            verdict = registration.find_verdict(name)
            state = "waiting" if verdict is None else verdict.state
            if state in names and STAGED not in name:
                names[state].append(name)
    return {state: " ".join(adapters) for state, adapters in names.items()}
