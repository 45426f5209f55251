"""The one thread that owns the model, and the queue of calls that asyncio has it run between two steps.

An exception out of a step ends the thread; :meth:`ModelThread.watch` then raises, so that the process ends and its
supervisor starts another, and the broker delivers its unacknowledged messages again.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import anyio
import structlog

from agents.inference.mlx.decoder import Decoder
from schemas.errors import KikiError, StageFailed, Unavailable

T = TypeVar("T")
STOP_SECONDS = 60.0
"""Longest wait for a step to end."""

GATHER_SECONDS = 0.03
"""Seconds that an idle thread waits for more requests after the first, if the last time several came together."""

_log = structlog.get_logger("inference")


class ModelThread:
    """Makes a decoder with ``load`` and steps it while it is busy.

    When a busy thread makes no step for ``stall_seconds``, it counts as hung.
    """

    decoder: Decoder

    def __init__(self, load: Callable[[], Decoder], *, stall_seconds: float) -> None:
        self._load, self._stall_seconds = load, stall_seconds
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._closing = False
        self._crowded = False
        self._failure: BaseException | None = None
        self._stepped_at = self._called_at = time.monotonic()
        self._loaded = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlx", daemon=True)

    async def start(self) -> None:
        """Start the thread and wait until it has loaded the decoder. Raises the error of loading."""
        self._thread.start()
        await anyio.to_thread.run_sync(self._loaded.wait)
        if self._failure is not None:
            raise self._failure

    async def stop(self) -> None:
        """End after the current step; a thread that makes no steps is left behind with the process."""
        wait = STOP_SECONDS if self.healthy else 0.0
        self._closing = True
        self.call(lambda: None)
        if self._thread.is_alive():
            await anyio.to_thread.run_sync(self._thread.join, wait)

    async def watch(self) -> NoReturn:
        """Raise when the thread has ended, or has not made a step for ``stall_seconds`` although there is work."""
        while True:
            await anyio.sleep(0.25)
            if not self.healthy:
                raise self._failure or StageFailed(f"the engine made no step for {self._stall_seconds} s.")

    @property
    def healthy(self) -> bool:
        """Whether the thread lives and makes steps."""
        if self._failure is not None or not self._loaded.is_set() or not self._thread.is_alive():
            return False
        has_calls = not self._calls.empty()
        if not self.decoder.busy and not has_calls:
            return True
        since = max(self._stepped_at, self._called_at) if has_calls else self._stepped_at
        return time.monotonic() - since < self._stall_seconds

    def call(self, call: Callable[[], None]) -> None:
        """Have ``call`` run between two steps."""
        if self._calls.empty():
            self._called_at = time.monotonic()
        self._calls.put(call)

    async def ask(self, call: Callable[[], T]) -> T:
        """Run ``call`` between two steps and return its result.

        Raises:
            KikiError: what ``call`` raises.
            Unavailable: the thread has ended.
        """
        self.check()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def answer() -> None:
            try:
                result = call()
            except KikiError as error:
                loop.call_soon_threadsafe(_settle, future, None, error)
            else:
                loop.call_soon_threadsafe(_settle, future, result, None)

        self.call(answer)
        return await future

    def check(self) -> None:
        """Check that the thread works.

        Raises:
            Unavailable: it has ended or hangs.
        """
        if not self.healthy:
            raise _thread_ended_error()

    def _run(self) -> None:
        try:
            self.decoder = self._load()
            self._loaded.set()
            with self.decoder.stream:
                while not self._closing:
                    busy = self.decoder.busy
                    self._receive()
                    if self.decoder.busy:
                        self._crowded = self.decoder.crowded or (busy and self._crowded)
                    self.decoder.step()
                    self._stepped_at = time.monotonic()
        except BaseException as error:  # noqa: BLE001  watch() and every request report the thread's end
            self._failure = error
            if self._loaded.is_set():
                _log.exception("model thread ended")
        finally:
            if self._loaded.is_set():
                self.decoder.send_to_all(_thread_ended_error())
            self._loaded.set()

    def _receive(self) -> None:
        """Run the waiting calls. An idle thread waits for one, and for others behind it, whose prompts then share a
        pass."""
        until = time.monotonic() if self.decoder.busy else None
        while True:
            seconds_left = None if until is None else max(0.0, until - time.monotonic())
            try:
                call = self._calls.get(block=seconds_left != 0.0, timeout=seconds_left)
            except queue.Empty:
                return
            self._stepped_at = time.monotonic()
            call()
            if until is None:
                until = self._stepped_at + (GATHER_SECONDS if self._crowded else 0.0)


def _thread_ended_error() -> Unavailable:
    return Unavailable("the model's thread has ended; the worker restarts.")


def _settle(future: "asyncio.Future[Any]", result: Any, error: KikiError | None) -> None:
    if future.done():
        return  # the caller has gone
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
