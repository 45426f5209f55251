"""The engine that asks an upstream server; no model in this process."""

import contextlib
import time
from collections.abc import Sequence
from typing import NoReturn

import anyio
import structlog

from agents.inference.requests import OnPiece, Outcome, Request
from agents.inference.settings import InferenceSettings
from agents.inference.upstream.ballots import scored
from agents.inference.upstream.connection import Line
from agents.inference.upstream.decoding import decoded
from agents.inference.upstream.failures import lost
from agents.inference.upstream.settings import UpstreamSettings
from bus.agent import Endpoint
from bus.connection import Bus
from bus.metrics import degraded
from schemas.adapters import AdapterInfo, AdapterListReply
from schemas.errors import DeadlineExceeded, KikiError, SetupError
from schemas.findings import AdapterUse

_log = structlog.get_logger("inference")


class OpenAIEngine:
    """:class:`agents.inference.engine.Engine` on a server with OpenAI's interface."""

    def __init__(self, settings: InferenceSettings, upstream: UpstreamSettings) -> None:
        self.line = Line(settings, upstream)
        self._upstream = upstream

    async def start(self) -> None:
        """Decode a token there. A server that is away may come later: the engine is not healthy until then.

        Raises:
            SetupError: the server is there and refuses.
        """
        try:
            await self.line.look()
        except KikiError as error:
            if not lost(error):
                await self.stop()
                raise SetupError(f"upstream {self._upstream.base_url}: {error.message}", param="upstream") from error
            _log.warning("upstream is away", url=self._upstream.base_url, why=error.message)

    async def stop(self) -> None:
        """Close the connections."""
        await self.line.close()

    async def watch(self) -> NoReturn:
        """Keep looking whether the upstream is there; its death is not this process's."""
        while True:
            await anyio.sleep(self._upstream.probe_seconds)
            with contextlib.suppress(KikiError):  # it is kept in the status, and told by every request
                await self.line.look()

    @property
    def healthy(self) -> bool:
        """Whether the upstream has decoded a token since it last failed."""
        return not self.line.why

    @property
    def gauges(self) -> dict[str, float]:
        """Counts."""
        return self.line.gauges

    @property
    def info(self) -> dict[str, str]:
        """The server, what it was found to do, and why it is not healthy."""
        found = {"device": "upstream", "adapters": "", "upstream": self._upstream.base_url}
        if self.line.capabilities is not None:
            found["capabilities"] = self.line.capabilities.words
        return {**found, "upstream_error": self.line.why} if self.line.why else found

    @property
    def parameters(self) -> int:
        """An upstream does not tell its size."""
        return 0

    async def generate(self, request: Request, on_piece: OnPiece | None = None) -> Outcome:
        """Run a request; cancelling the caller closes its streams, which ends the upstream's work.

        Raises:
            InvalidInput: the upstream cannot do what the sampling asks for, or the messages are too long.
            StageFailed: adapter_failed, or upstream_refused.
            Unavailable: it is away.
            DeadlineExceeded: the deadline passed.
        """
        self.line.able()
        uses = self.line.modules.usable(request.adapters)
        with anyio.move_on_after(request.deadline - time.time()):
            if request.choices or request.ballots:
                return await scored(self.line, request, uses)
            return await decoded(self.line, request, uses, on_piece)
        raise DeadlineExceeded("the deadline passed while the upstream was at it.")

    def forget(self) -> None:
        """The upstream keeps its prompts by itself; that it may hold what was to be forgotten is counted."""
        degraded("upstream.forget", "an upstream's kept prompts cannot be dropped from here: restart it, or wait")

    def registered(self, uses: Sequence[AdapterUse]) -> tuple[AdapterUse, ...]:
        """Those of ``uses`` that the settings name."""
        return tuple(use for use in uses if use.name in self._upstream.adapters)

    @property
    def prefetches(self) -> bool:
        """Never: the upstream loads at the first use."""
        return False

    async def prefetch(self, uses: tuple[AdapterUse, ...]) -> None:
        """Nothing."""

    async def adapters(self) -> AdapterListReply:
        """All registered adapters.

        Raises:
            Unavailable: the upstream is away.
        """
        return await self.line.modules.listing()

    async def administer(self, verb: str, name: str, sha256: str = "") -> AdapterInfo:
        """Check, load, unload or activate an adapter at the upstream.

        Raises:
            StageFailed: code ``adapter_failed``.
            Unavailable: the upstream is away.
        """
        return await self.line.modules.perform(verb, name, sha256)

    def consolidation(self, bus: Bus) -> Sequence[Endpoint]:  # noqa: ARG002 - the protocol's signature
        """None: the weights are elsewhere."""
        return ()
