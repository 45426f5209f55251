"""The engine: one thread that owns the model, and an asyncio face that talks to it through queues.

The thread's loop: take what came in, drop what nobody wants any more, admit from the scheduler, one step of prefill,
one step of decoding for all rows. Whatever escapes the loop ends the thread; :meth:`MlxEngine.watch` then raises, so
that the process ends and its supervisor starts another, and the broker delivers again what it held.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, NoReturn, TypeVar

import anyio
import mlx.core as mx
import structlog
from mlx_lm.generate import BatchGenerator

from agents.inference import administration, loading
from agents.inference.adapters import BASE, AdapterBank
from agents.inference.mixing import Routed
from agents.inference.prefill import SharedPrefill
from agents.inference.prefix import Cost, PrefixCache, cost, only_at_its_end
from agents.inference.processors import Grammars, likeliest, processors
from agents.inference.prompt import PromptEncoder
from agents.inference.requests import Outcome, Request, Work
from agents.inference.rows import Row
from agents.inference.sampling import sampler, seed_of, temperature_of
from agents.inference.scheduler import Running, Scheduler
from agents.inference.scoring import choice_logprobs
from agents.inference.settings import InferenceSettings
from agents.inference.text import Piece, TextFilter
from bus.metrics import degraded
from schemas.errors import DeadlineExceeded, KikiError, SetupError, StageFailed, Unavailable
from schemas.jobs import LANES
from schemas.services import AdapterInfo, AdapterListReply
from schemas.stages import AdapterUse, LikelyToken, TokenLogprob

OnPiece = Callable[[Piece], Awaitable[None]]
T = TypeVar("T")
STOP_SECONDS = 60.0
"""Longest wait for a step to end."""
PREFILL_ROWS = 8
"""Prompts that mlx-lm processes together at most."""

_log = structlog.get_logger("inference")


class MlxEngine:
    """A model behind a thread. :meth:`start` before the rest, :meth:`stop` at the end."""

    def __init__(self, settings: InferenceSettings) -> None:
        self.settings = settings
        self.tokens_decoded = 0
        self.prompt_tokens = 0
        self.prefix_tokens = 0
        self.active_bytes = 0
        self.device = ""
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._scheduler: Scheduler[Work] = Scheduler(
            max_rows=settings.max_batch, patience=settings.patience, max_keys=settings.max_mixed + 1
        )
        self._ready: frozenset[Hashable] = frozenset()
        self._active: list[Work] = []
        self._rows: dict[int, tuple[Work, Row]] = {}
        self._closing = False
        self._failure: BaseException | None = None
        self._stepped_at = self._asked_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="mlx", daemon=True)
        self._loaded = threading.Event()
        self._model: Routed
        self._prefixes = PrefixCache(max_bytes=settings.prefix_bytes, bits=settings.prefix_bits)
        self._whole_only = False
        self._cost = Cost(fixed=0, token=0)
        self._tokenizer: Any = None
        self._bank: AdapterBank
        self._generator: BatchGenerator
        self.encoder: PromptEncoder
        self.grammars: Grammars

    # The asyncio side.

    async def start(self) -> None:
        """Load the model and decode one token.

        Raises:
            SetupError: the model or the adapters folder cannot be used.
        """
        self._thread.start()
        await anyio.to_thread.run_sync(self._loaded.wait)
        if isinstance(self._failure, SetupError):
            raise self._failure
        if self._failure is not None:
            raise SetupError(f"{self.settings.model} cannot be loaded: {self._failure!r}.", param="model")

    async def stop(self) -> None:
        """End the thread after its current step; one that makes no steps is left behind with the process."""
        wait = STOP_SECONDS if self.healthy else 0.0
        self._closing = True
        self._call(lambda: None)
        if self._thread.is_alive():
            await anyio.to_thread.run_sync(self._thread.join, wait)

    async def watch(self) -> NoReturn:
        """Raise when the thread has ended, or has not made a step for ``stall_seconds`` with work at hand."""
        while True:
            await anyio.sleep(0.25)
            if not self.healthy:
                raise self._failure or StageFailed(f"the engine made no step for {self.settings.stall_seconds} s.")

    async def generate(self, request: Request, on_piece: OnPiece | None = None) -> Outcome:
        """Run a request. ``on_piece`` gets the text of candidate 0 as it becomes certain.

        Cancelling the caller stops the decoding before the next step.

        Raises:
            KikiError: adapter_failed, deadline_exceeded, or unavailable when the thread has ended.
        """
        if not self.healthy:
            raise Unavailable("the model's thread has ended; the worker restarts.")
        work = Work(request=request, loop=asyncio.get_running_loop(), inbox=asyncio.Queue(), live=on_piece is not None)
        self._call(lambda: self._enqueue(work))
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

    def prefetch(self, uses: tuple[AdapterUse, ...]) -> None:
        """Make registered adapters resident between two steps; a failure is counted and told by its own requests."""
        self._call(lambda: self._load(uses))

    async def on_thread(self, call: Callable[[], T]) -> T:
        """The result of ``call`` between two steps of the model's thread.

        Raises:
            KikiError: what ``call`` raises.
            Unavailable: the thread has ended.
        """
        if not self.healthy:
            raise Unavailable("the model's thread has ended; the worker restarts.")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def answer() -> None:
            try:
                result = call()
            except KikiError as error:
                loop.call_soon_threadsafe(_settle, future, None, error)
            else:
                loop.call_soon_threadsafe(_settle, future, result, None)

        self._call(answer)
        return await future

    async def adapters(self) -> AdapterListReply:
        """All registered adapters."""
        return await self.on_thread(lambda: administration.listing(self._bank))

    async def administer(self, verb: str, name: str) -> AdapterInfo:
        """One of :data:`agents.inference.administration.VERBS` on an adapter.

        Raises:
            StageFailed: code ``adapter_failed``.
        """

        def perform() -> AdapterInfo:
            taken = {work.seat.slot for work in self._active if work.seat is not None}
            return administration.perform(self._bank, verb, name, taken=taken)

        return await self.on_thread(perform)

    @property
    def healthy(self) -> bool:
        """Whether the thread lives and makes steps."""
        if self._failure is not None or not self._thread.is_alive():
            return False
        asked = not self._calls.empty()
        if not self._busy and not asked:
            return True
        since = max(self._stepped_at, self._asked_at) if asked else self._stepped_at
        return time.monotonic() - since < self.settings.stall_seconds

    def _call(self, call: Callable[[], None]) -> None:
        """Have ``call`` run between two steps."""
        if self._calls.empty():
            self._asked_at = time.monotonic()
        self._calls.put(call)

    @property
    def active_adapters(self) -> tuple[AdapterUse, ...]:
        """What is in the model now."""
        return self._bank.active

    @property
    def gauges(self) -> dict[str, float]:
        """Counts and bytes for the status."""
        return {
            **{f"queue_{lane}": float(self._scheduler.depth(lane)) for lane in LANES},
            "kv_bytes_promised": float(sum(work.bytes for work in list(self._active))),
            "kv_bytes_limit": float(self._scheduler.max_bytes or 0),
            "active_rows": float(len(self._rows)),
            "active_requests": float(len(self._active)),
            "tokens_decoded_total": float(self.tokens_decoded),
            "prompt_tokens_total": float(self.prompt_tokens),
            "prefix_tokens_total": float(self.prefix_tokens),
            "prefix_bytes": float(self._prefixes.nbytes),
            "adapter_swaps_total": float(self._bank.swaps),
            "last_swap_ms": self._bank.last_swap_ms,
            "adapter_resident_bytes": float(self._bank.resident_bytes),
            "mlx_active_bytes": float(self.active_bytes),
        }

    # The thread's side.

    @property
    def _busy(self) -> bool:
        return bool(self._active or len(self._scheduler))

    def _run(self) -> None:
        try:
            self._load_model()
            self._loaded.set()
            with mx.stream(self._generator.stream):
                while not self._closing:
                    self._turn()
        except BaseException as error:  # noqa: BLE001  the thread's end is told by watch() and by every request
            self._failure = error
            if self._loaded.is_set():
                _log.exception("the engine's thread ended")
        finally:
            for work in [*self._active, *self._scheduler.items()]:
                work.tell(Unavailable("the model's thread has ended; the worker restarts."))
            self._loaded.set()

    def _load_model(self) -> None:
        loaded = loading.load(self.settings)
        self._tokenizer, self.device, self.encoder = loaded.tokenizer, loaded.device, loaded.encoder
        self.grammars = loaded.grammars
        self._bank = AdapterBank(
            loaded.model,
            self.settings.adapters,
            budget=self.settings.adapter_bytes,
            dtype=loaded.dtype,
            seats=self.settings.max_mixed,
        )
        self._model = Routed(loaded.model, self._bank.rows)
        self._measure(loaded.memory)
        eos = [[token] for token in sorted(self._tokenizer.eos_token_ids)]
        self._generator = BatchGenerator(
            self._model,
            stop_tokens=eos,
            completion_batch_size=self.settings.max_batch,
            prefill_batch_size=min(PREFILL_ROWS, self.settings.max_batch),
            prefill_step_size=self.settings.prefill_step,
        )
        self._generator.insert([list(self.encoder.plain("Hello."))], max_tokens=[1])
        while not self._generator.next()[1]:
            pass

    def _measure(self, memory: int) -> None:
        """What a row costs, and how much all of them may; ``memory`` is what MLX may allocate, in bytes."""
        cache, settings = self._model.make_cache(), self.settings
        self._whole_only = only_at_its_end(cache)
        mx.eval(self._model(mx.array([[1]]), cache=cache))
        self._cost = cost(cache[:-1])
        beside = int(mx.get_active_memory()) + settings.adapter_bytes + settings.prefix_bytes
        self._scheduler.max_bytes = settings.kv_bytes or max(
            self._cost.of(self.encoder.context_tokens), memory - beside
        )

    def _turn(self) -> None:
        self._receive()
        self._drop_unwanted()
        self._admit()
        self._advance_prefill()
        self._decode()
        self._stepped_at = time.monotonic()

    def _receive(self) -> None:
        wait = not self._busy
        while True:
            try:
                call = self._calls.get(block=wait)
            except queue.Empty:
                return
            self._stepped_at = time.monotonic()
            call()
            wait = False

    def _enqueue(self, work: Work) -> None:
        known = tuple(use for use in work.request.adapters if self._bank.registered(use.name))
        for use in work.request.adapters:
            if use not in known:
                degraded("adapter.missing", f"adapter '{use.name}' is not registered; the base answers instead")
        work.key, work.alone = known, not self._bank.mixable(known)
        asked = work.request.sampling.max_tokens if not work.request.choices else max(map(len, work.request.choices))
        work.bytes = self._cost.of(len(work.request.prompt.tokens) + asked) * max(work.size, len(work.request.choices))
        self._scheduler.add(
            work,
            key=known,
            lane=work.request.lane,
            rows=work.size,
            now=time.monotonic(),
            alone=work.alone,
            bytes=work.bytes,
        )

    def _load(self, uses: tuple[AdapterUse, ...]) -> None:
        for use in uses:
            if self._bank.registered(use.name):
                try:
                    self._bank.load(use.name)
                except KikiError as error:
                    degraded("adapter.prefetch", error.message)

    def _drop_unwanted(self) -> None:
        now = time.time()
        for work in [*self._active, *self._scheduler.items()]:
            if not work.unwanted and work.request.deadline <= now:
                work.tell(DeadlineExceeded("the deadline passed while the model was at it."))
                work.unwanted = True
        self._scheduler.discard(work for work in self._scheduler.items() if work.unwanted)
        for work in [work for work in self._active if work.unwanted]:
            self._leave(work)

    def _admit(self) -> None:
        running = Running(
            keys=frozenset(work.key for work in self._active),
            ready=self._ready,
            alone=any(work.alone for work in self._active),
            rows=sum(work.size for work in self._active),
            bytes=sum(work.bytes for work in self._active),
        )
        admitted = [waiting.item for waiting in self._scheduler.admit(running=running, now=time.monotonic())]
        if not admitted:
            return
        seated = [work for work in admitted if self._seat(work)]
        if seated:
            self._mount()
        for work in seated:
            self._begin(work)

    def _seat(self, work: Work) -> bool:
        """Give it its adapters; on failure tell it, and only it."""
        taken = {other.seat.slot for other in self._active if other.seat is not None}
        try:
            work.seat = self._bank.seat(work.key, taken=taken)
        except KikiError as error:
            work.tell(error)
            return False
        work.adapters, work.admitted_at = work.seat.uses, time.monotonic()
        self._active.append(work)
        return True

    def _mount(self) -> None:
        """Put what the rows of the batch need into the model."""
        self._bank.mount({work.seat for work in self._active if work.seat is not None} or {BASE})
        self._ready = frozenset(work.key for work in self._active)

    def _begin(self, work: Work) -> None:
        tokens = work.request.prompt.tokens
        layers, known = self._prefixes.find(work.adapters, tokens[:-1])
        self.prompt_tokens += len(tokens) - known
        self.prefix_tokens += known
        cache = self._model.make_cache(work.seat.slot if work.seat is not None else 0, layers)
        if len(tokens) > 1 and (work.request.n > 1 or work.request.choices):
            step = self.settings.prefill_step
            work.prefill = SharedPrefill(self._model, tokens, cache=cache, known=known, step=step)
        else:
            self._insert(work, known=known, caches=[cache])

    def _advance_prefill(self) -> None:
        work = next((work for work in self._active if work.prefill is not None), None)
        if work is None or (shared := work.prefill) is None or not shared.advance():
            return
        work.prefill = None
        self._prefixes.keep(work.adapters, work.request.prompt.tokens[:-1], shared.cache[:-1])
        if work.request.choices:
            totals = choice_logprobs(self._model, shared.cache, shared.last, work.request.choices)
            self._finish(work, logprobs=tuple(totals))
        else:
            known = len(work.request.prompt.tokens) - 1
            self._insert(work, known=known, caches=[shared.cache] * work.request.n)

    def _insert(self, work: Work, *, known: int, caches: list[Any]) -> None:
        """Give the rows to the generator; ``caches`` hold the first ``known`` tokens of the prompt."""
        tokens = list(work.request.prompt.tokens)
        asked = work.request.sampling
        room = self.encoder.context_tokens - len(work.request.prompt.tokens)
        budget = max(1, min(asked.max_tokens, room))
        work.rows = [self._row(work, index) for index in range(work.request.n)]
        warm = self.settings.candidate_temperature
        uids = self._generator.insert(
            [tokens[known:] for _ in caches],
            max_tokens=[budget] * len(caches),
            caches=caches,
            all_tokens=[tokens[:known] for _ in caches],
            logits_processors=[processors(asked, work.request.prompt.tokens, self.grammars) for _ in caches],
            samplers=[
                sampler(asked, temperature=temperature_of(asked, row.index, candidate_temperature=warm), seed=row.seed)
                for row in work.rows
            ],
        )
        work.uids = tuple(uids)
        self._rows.update({uid: (work, row) for uid, row in zip(uids, work.rows, strict=True)})

    def _row(self, work: Work, index: int) -> Row:
        asked = work.request.sampling
        return Row(
            index=index,
            seed=seed_of(asked, index),
            detokenizer=self._tokenizer.detokenizer,
            filter=TextFilter(
                stops=asked.stop, markers=loading.think_markers(self._tokenizer), thinking=work.request.prompt.thinking
            ),
            eos=frozenset(self._tokenizer.eos_token_ids),
        )

    def _decode(self) -> None:
        if not self._rows:
            return
        prompts, responses = self._generator.next()
        self._keep_prompts(prompts)
        self.active_bytes = int(mx.get_active_memory())
        if not responses:
            return
        logprobs: Any = mx.stack([response.logprobs[response.token] for response in responses]).tolist()
        self.tokens_decoded += len(responses)
        stopped: list[int] = []
        for response, logprob in zip(responses, logprobs, strict=True):
            work, row = self._rows[response.uid]
            if work.request.sampling.logprobs and response.token not in row.eos:
                row.tokens.append(self._told(response, logprob, work.request.sampling.top_logprobs))
            pieces = row.take(response.token, logprob, last=response.finish_reason is not None)
            if row.index == 0 and work.live:
                for piece in pieces:
                    work.tell(piece)
            if row.finish_reason is not None:
                del self._rows[response.uid]
                if response.finish_reason is None:
                    stopped.append(response.uid)
                else:
                    self._prefixes.keep(work.adapters, response.all_tokens, response.prompt_cache[:-1])
        if stopped:
            self._stop(stopped)
        for work in [work for work in self._active if work.done]:
            self._finish(work)

    def _stop(self, uids: list[int]) -> None:
        """Take rows that ended at a stop string out of the batch."""
        owners = {uid: work for work in self._active for uid in work.uids}
        for uid, (cache, tokens) in self._generator.remove(uids, return_prompt_caches=True).items():
            self._prefixes.keep(owners[uid].adapters, tokens, cache[:-1])

    def _keep_prompts(self, prompts: list[Any]) -> None:
        """Keep what cannot be cut later where the prompt ends: the next turn begins with it."""
        ended = [response.uid for response in prompts if response.end_of_prompt and response.uid in self._rows]
        if not ended or not self._whole_only:
            return
        for uid, (cache, tokens) in self._generator.extract_cache(ended).items():
            self._prefixes.keep(self._rows[uid][0].adapters, tokens, cache[:-1])

    def _told(self, response: Any, logprob: float, top: int) -> TokenLogprob:
        def text(token: int) -> str:
            return str(self._tokenizer.decode([token]))

        best = likeliest(response.logprobs, top) if top else []
        return TokenLogprob(
            token=text(response.token),
            logprob=logprob,
            top=tuple(LikelyToken(token=text(token), logprob=value) for token, value in best if value > -1e30),
        )

    def _finish(self, work: Work, *, logprobs: tuple[float, ...] = ()) -> None:
        self._active.remove(work)
        prompt_tokens = len(work.request.prompt.tokens)
        work.tell(
            Outcome(
                candidates=tuple(
                    row.candidate(adapters=work.adapters, prompt_tokens=prompt_tokens) for row in work.rows
                ),
                logprobs=logprobs,
                adapters=work.adapters,
                prompt_tokens=prompt_tokens,
                compute=work.compute,
            )
        )

    def _leave(self, work: Work) -> None:
        """Take a request that nobody wants any more out of the batch."""
        self._active.remove(work)
        uids = [uid for uid, (owner, _) in self._rows.items() if owner is work]
        if uids:
            self._generator.remove(uids)
        for uid in uids:
            del self._rows[uid]
        _log.info("left the batch", decoded=sum(row.decoded for row in work.rows))


def _settle(future: "asyncio.Future[Any]", result: Any, error: KikiError | None) -> None:
    if future.done():
        return  # who asked has gone
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
