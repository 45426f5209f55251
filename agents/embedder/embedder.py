"""The embedder: a model on a thread of its own, several callers' texts in one forward pass, and a cache."""

import asyncio
import os
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.shared.encoder import Floats, count_tokens, encode, load_model
from schemas.errors import Unavailable


def default_threads() -> int:
    """Threads of a forward pass when no setting says otherwise: half the processors, at most four.

    The other half is left for decoding. Two threads on two cores took 65 ms a prompt and 102 ms of processor time, one
    thread 72 ms and 69 ms; in a batch of 16 both took 34 ms a prompt, for 63 and 34 ms of processor time.
    """
    return max(1, min(4, (os.cpu_count() or 1) // 2))


@dataclass(frozen=True)
class Embeddings:
    """Unit vectors ``[n, width]``, and ``compute``: the seconds of the forward passes that the caller waited for.

    ``began_at`` is when the first of those passes began (Unix time), which may be before the call. Both are 0 when all
    vectors were cached. ``tokens`` are those of each text; one with more than the model reads was cut.
    """

    vectors: Floats
    compute: float
    began_at: float = 0.0
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class _ForwardPass:
    """When a forward pass began (Unix time), and the seconds that it took."""

    began_at: float
    seconds: float


@dataclass(frozen=True)
class _PassResult:
    """A text's vector and its tokens, and the pass that made the vector."""

    vector: Floats
    tokens: int
    forward_pass: _ForwardPass


@dataclass(frozen=True)
class _Request:
    text: str
    future: "Future[_PassResult]"


class Embedder:
    """Owns the model and its thread; the event loop only waits for futures.

    Texts that come while a pass runs share the next one. Texts wait ``batch_wait`` seconds for those of other callers
    only if the pass before served several callers: a single caller is never delayed.
    """

    def __init__(
        self,
        path: Path,
        *,
        batch_wait: float = 0.002,
        batch_size: int = 32,
        cache_size: int = 4096,
        max_tokens: int = 384,
        threads: int | None = None,
    ) -> None:
        self._path = path
        self._batch_wait = batch_wait
        self._batch_size = batch_size
        self._cache_size = cache_size
        self._max_tokens = max_tokens
        self._threads = threads or default_threads()
        self._queue: queue.SimpleQueue[list[_Request] | None] = queue.SimpleQueue()
        self._several_callers = False
        self._cache: OrderedDict[str, _PassResult] = OrderedDict()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.width = 0
        self.max_tokens = 0
        self.batches = 0
        self.embedded_texts = 0
        self.hits = 0
        self.compute = 0.0

    @property
    def waiting(self) -> int:
        """Callers whose texts no pass has taken yet."""
        return self._queue.qsize()

    @property
    def alive(self) -> bool:
        """Whether the thread serves."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Load the model on its thread, and return once it has embedded a word. Blocks; call it from a thread.

        Raises:
            SetupError: the model cannot be loaded.
        """
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._serve, args=(ready,), name="embedder", daemon=True)
        self._thread.start()
        ready.result()

    def stop(self) -> None:
        """End the thread after the batch that it is working on. Blocks."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def embed(self, texts: Sequence[str]) -> Coroutine[Any, Any, Embeddings]:
        """Embed texts; they share forward passes with the texts of other callers.

        The texts are queued when this is called, and the coroutine that it returns waits for the vectors: the caller
        may do other work before it awaits that.

        Raises:
            Unavailable: the embedder is not running.
        """
        results: dict[str, _PassResult] = {}
        requests = []
        for text in dict.fromkeys(texts):
            if (cached := self._look_up(text)) is None:
                requests.append(_Request(text, Future()))
            else:
                self.hits += 1
                results[text] = cached
        self._submit(requests)
        return self._await_results(texts, requests, results)

    def embed_ahead(self, texts: Iterable[str]) -> None:
        """Embed texts that a later call will ask for, into the cache. If that fails, the later call tries again.

        Raises:
            Unavailable: the embedder is not running.
        """
        self._submit([_Request(text, Future()) for text in dict.fromkeys(texts) if self._look_up(text) is None])

    def _submit(self, requests: list[_Request]) -> None:
        if not requests:
            return
        if not self.alive:
            raise Unavailable("the embedder is not running; restart it.")
        self._queue.put(requests)

    async def _await_results(
        self, texts: Sequence[str], requests: list[_Request], results: dict[str, _PassResult]
    ) -> Embeddings:
        """The embeddings of ``texts``: those of ``requests`` once they are there, the others of ``results``."""
        passes: set[_ForwardPass] = set()
        for item in requests:
            result = results[item.text] = await asyncio.wrap_future(item.future)
            passes.add(result.forward_pass)
        return Embeddings(
            np.stack([results[text].vector for text in texts]),
            sum(item.seconds for item in passes),
            began_at=min((item.began_at for item in passes), default=0.0),
            tokens=tuple(results[text].tokens for text in texts),
        )

    def _look_up(self, text: str) -> _PassResult | None:
        with self._lock:
            if text in self._cache:
                self._cache.move_to_end(text)
            return self._cache.get(text)

    def _keep(self, text: str, result: _PassResult) -> None:
        with self._lock:
            self._cache[text] = result
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)

    def _serve(self, ready: "Future[None]") -> None:
        import torch

        try:
            torch.set_num_threads(self._threads)
            model = load_model(self._path, max_tokens=self._max_tokens)
            self.width, self.max_tokens = encode(model, ["ready"]).shape[1], int(model.max_seq_length)
            count_tokens(model, ["ready"])
        except Exception as error:  # noqa: BLE001 - whatever it was, start() must raise it
            ready.set_exception(error)
            return
        ready.set_result(None)
        running = True
        while running:
            batch, running = self._gather_requests()
            pending = [
                request
                for request in batch
                if request.future.set_running_or_notify_cancel() and not self._answer_from_cache(request)
            ]
            for start in range(0, len(pending), self._batch_size):
                self._run_pass(model, pending[start : start + self._batch_size])

    def _answer_from_cache(self, request: _Request) -> bool:
        """Answer a request from the cache; False when its text is not there."""
        if (cached := self._look_up(request.text)) is None:
            return False
        request.future.set_result(cached)
        return True

    def _gather_requests(self) -> tuple[list[_Request], bool]:
        """The requests of the next batch, and whether to go on after it (False once :meth:`stop` was called)."""
        requests = self._queue.get()
        # A timeout of 0 still takes what is queued already, so texts that came during the last pass share this one.
        until = time.monotonic() + (self._batch_wait if self._several_callers else 0.0)
        batch, callers = list[_Request](), 0
        while requests is not None:
            batch, callers = batch + requests, callers + 1
            if len(batch) >= self._batch_size:
                break
            try:
                requests = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
        self._several_callers = callers > 1
        return batch, requests is not None

    def _run_pass(self, model: Any, batch: list[_Request]) -> None:
        texts = list(dict.fromkeys(request.text for request in batch))
        began_at, began = time.time(), time.perf_counter()
        try:
            vectors, tokens = encode(model, texts), count_tokens(model, texts)
        except Exception as error:  # noqa: BLE001 - the callers must get it, and the thread must live on
            for request in batch:
                request.future.set_exception(error)
            return
        forward_pass = _ForwardPass(began_at, time.perf_counter() - began)
        self.batches += 1
        self.embedded_texts += len(texts)
        self.compute += forward_pass.seconds
        results = {
            text: _PassResult(vector, count, forward_pass)
            for text, vector, count in zip(texts, vectors, tokens, strict=True)
        }
        for text, result in results.items():
            self._keep(text, result)
        for request in batch:
            request.future.set_result(results[request.text])
