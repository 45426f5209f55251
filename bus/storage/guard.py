"""Asks whether the broker can store, before work is spent on what could not be kept.

At a full disk nats-server 2.15 answers publishes with silence. A stream whose write has failed once takes nothing more,
though there be room again, until its server is started anew; streams that wrote nothing meanwhile go on. So three
things are asked, from the cheapest on:

1. the disk of the embedded broker, each time: it is refused below a reserve, before any write can fail;
2. the server's health, where its monitoring address is known: it names a stream whose write has failed;
3. a small message that is stored in a stream of its own.

The answers to the last two are used for :data:`READING_SECONDS`.
"""

import time
from pathlib import Path

import anyio
import structlog

from bus import metrics
from bus.broker import monitor_of, read_write_error
from bus.connection import Bus
from bus.errors import BROKER_ERRORS, NO_STREAM, BrokerUnavailable, describe
from bus.storage.disk import RESERVE, describe_lack
from schemas.errors import Unavailable

READING_SECONDS = 2.0
"""Seconds for which a reading of the broker is used."""

_log = structlog.get_logger("bus")


class StorageGuard:
    """Whether the broker behind ``bus`` can store.

    Args:
        bus: the connection; the embedded broker is known by its port.
        directory: of the embedded broker, if the broker may be that one; None if it is somebody else's.
        monitor: the address at which somebody else's broker is monitored; None when it is not known.
        reserve: bytes of the embedded broker's disk that stay free.
    """

    def __init__(
        self, bus: Bus, *, directory: Path | None = None, monitor: str | None = None, reserve: int = RESERVE
    ) -> None:
        self._bus = bus
        self._directory = directory
        self._monitor = monitor
        self._reserve = reserve
        self._reading = ""
        self._read_at = float("-inf")
        self._reading_lock = anyio.Lock()
        self._refuses = False

    @property
    def monitor(self) -> str | None:
        """The broker's monitoring address; an embedded one has another after each start. None without one."""
        if self._monitor is not None or self._directory is None:
            return self._monitor
        return monitor_of(self._directory, self._bus.broker_port)

    async def require(self) -> None:
        """Return when the broker can store.

        Raises:
            Unavailable: it cannot, and why.
        """
        if problem := await self.describe_problem():
            metrics.count_degraded("storage.refused", problem)
            raise Unavailable(f"the broker cannot store: {problem}, and ask again.")

    async def describe_problem(self) -> str:
        """Why the broker cannot store now; empty when it can, and while it is away, which its users say themselves."""
        if not self._bus.is_connected:
            return ""
        problem = self._describe_lack() or await self._read_broker()
        if bool(problem) != self._refuses:
            self._refuses = bool(problem)
            _log.warning("storage changed", error=problem or None)
        return problem

    def _describe_lack(self) -> str:
        """What the embedded broker's disk lacks; a monitoring address in its folder says that it is the one in use."""
        if self._directory is None or monitor_of(self._directory, self._bus.broker_port) is None:
            return ""
        return describe_lack(self._directory, reserve=self._reserve)

    async def _read_broker(self) -> str:
        async with self._reading_lock:
            if time.monotonic() - self._read_at >= READING_SECONDS:
                self._reading = await self._read_health() or await self._store_probe()
                self._read_at = time.monotonic()
            return self._reading

    async def _read_health(self) -> str:
        """The server's own word on a stream whose write has failed; empty without one, or when it cannot be asked."""
        if (monitor := self.monitor) is None:
            return ""
        try:
            return await read_write_error(monitor)
        except Unavailable as error:
            metrics.count_degraded("storage.health", error.message)
            return ""

    async def _store_probe(self) -> str:
        """Store a small message; what the broker says when it does not."""
        try:
            await self._bus.js.publish(self._bus.subjects.storage_probe, b"")
        except NO_STREAM:  # this process came first on a new broker; the next reading stores
            return await self._create_streams()
        except BROKER_ERRORS as error:
            return f"a small message was not stored ({describe(error)}); look at its disk and its log"
        return ""

    async def _create_streams(self) -> str:
        try:
            await self._bus.create_missing_streams()
        except BrokerUnavailable as error:
            return error.message.rstrip(".")
        return ""
