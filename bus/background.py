"""What goes on through faults: work beside an agent for as long as it lives, and steps that wait for their broker."""

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import structlog

from bus import metrics
from bus.errors import BrokerUnavailable, describe
from schemas.errors import KikiError

T = TypeVar("T")

PAUSE_SECONDS = 5.0
"""Seconds between a fault and the next try."""

RETRY_SECONDS = 0.5
"""Seconds between two tries of what the broker cannot do yet."""

STEADY_SECONDS = 15.0
"""Seconds without a failure after which a success ends the outage: a cluster that elects leaders comes and goes, and
what was asked before may still fail for as long as a request waits."""

QUIET_SECONDS = 60.0
"""Seconds without a failure after which the next one is told in any case."""

_log = structlog.get_logger("bus")


async def keep_running(name: str, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    """Run ``work`` until it returns; what it raises is counted under ``name``, and it begins again after a pause."""
    while True:
        try:
            await work(*arguments)
        except KikiError as error:
            metrics.count_degraded(name, error.message)
        except Exception as error:  # noqa: BLE001 - a fault of the background work; its traceback is logged
            _log.exception("background work failed", work=name)
            metrics.count_degraded(name, repr(error))
        else:
            return
        await anyio.sleep(PAUSE_SECONDS)


class Outage:
    """What a process knows of its broker's absence, however many of its connections and agents wait for it.

    Each failure is counted (``kiki_degraded``, path ``broker.away``); the first and the end of all are logged.
    """

    def __init__(self) -> None:
        self._began_at = 0.0
        self._failed_at = float("-inf")
        self._is_told = False

    @property
    def lasts(self) -> bool:
        """Whether the broker was away of late, so that deliveries that came to nothing are nobody's fault."""
        return self._is_told

    async def wait(self, step: Callable[[], Awaitable[T]]) -> T:
        """Repeat ``step`` until the broker can do it; returns what it gives."""
        while True:
            try:
                outcome = await step()
            except BrokerUnavailable as error:
                self.note_failure(error)
            else:
                self.note_success()
                return outcome
            await anyio.sleep(RETRY_SECONDS)

    def note_failure(self, error: Exception) -> None:
        """The broker could not do something."""
        now = time.monotonic()
        metrics.DEGRADED.labels("broker.away").inc()
        if not self._is_told or now - self._failed_at > QUIET_SECONDS:
            self._began_at, self._is_told = now, True
            message = error.message if isinstance(error, BrokerUnavailable) else describe(error)
            _log.warning("waiting for the broker", error=message)
        self._failed_at = now

    def note_success(self) -> None:
        """The broker could do something."""
        now = time.monotonic()
        if self._is_told and now - self._failed_at > STEADY_SECONDS:
            self._is_told = False
            _log.info("broker serves again", seconds=round(now - self._began_at, 1))
