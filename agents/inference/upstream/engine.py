"""The engine that asks an upstream server; no model in this process."""

import contextlib
import time
from collections.abc import Sequence
from typing import NoReturn

import anyio
import structlog

from agents.inference.requests import DecodingOutcome, OnAcceptance, OnPiece, Request
from agents.inference.settings import InferenceSettings, UpstreamSettings
from agents.inference.upstream.ballots import score_choices
from agents.inference.upstream.connection import UpstreamConnection
from agents.inference.upstream.decoding import Decoding
from agents.inference.upstream.failures import is_outage
from agents.inference.upstream.request import count_body
from bus.connection import Bus
from bus.metrics import count_degraded
from schemas.adapters import AdapterInfo, AdapterListReply
from schemas.chat import Message, Tooling
from schemas.errors import DeadlineExceeded, KikiError, SetupError
from schemas.findings import AdapterUse

_log = structlog.get_logger("inference")


class OpenAIEngine:
    """:class:`agents.inference.engine.Engine` on a server with OpenAI's interface."""

    def __init__(self, settings: InferenceSettings, upstream: UpstreamSettings) -> None:
        self.connection = UpstreamConnection(settings, upstream)
        self._upstream = upstream

    async def start(self) -> None:
        """Have the upstream decode a token. If it does not answer, the engine starts all the same and is not healthy
        yet.

        Raises:
            SetupError: the upstream answers and refuses.
        """
        try:
            await self.connection.check_upstream()
        except KikiError as error:
            if not is_outage(error):
                await self.stop()
                raise SetupError(f"upstream {self._upstream.base_url}: {error.message}", param="upstream") from error
            _log.warning("upstream unreachable", url=self._upstream.base_url, error=error.message)

    async def stop(self) -> None:
        """Close the connections."""
        await self.connection.close()

    async def watch(self) -> NoReturn:
        """Check again and again whether the upstream answers; its death does not end this process."""
        while True:
            await anyio.sleep(self._upstream.probe_seconds)
            with contextlib.suppress(KikiError):  # the status keeps the error, and every request raises it
                await self.connection.check_upstream()

    @property
    def healthy(self) -> bool:
        """Whether the upstream has decoded a token since it last failed."""
        return not self.connection.outage

    @property
    def gauges(self) -> dict[str, float]:
        """Counts."""
        return {**self.connection.gauges, "adapters_registered": float(len(self._upstream.adapters))}

    @property
    def info(self) -> dict[str, str]:
        """The server, its adapters and capabilities, and why it is not healthy."""
        fields = {
            "device": "upstream",
            "adapters": "",
            "registered": " ".join(sorted(self._upstream.adapters)),
            "upstream": self._upstream.base_url,
        }
        if self.connection.capabilities is not None:
            fields["capabilities"] = self.connection.capabilities.names
        return {**fields, "upstream_error": self.connection.outage} if self.connection.outage else fields

    @property
    def parameters(self) -> int:
        """Always 0: an upstream does not report its size."""
        return 0

    async def generate(
        self, request: Request, on_piece: OnPiece | None = None, on_acceptance: OnAcceptance | None = None
    ) -> DecodingOutcome:
        """Run a request; cancelling the caller closes its streams, which ends the upstream's work.

        Raises:
            InvalidInput: the upstream cannot do what the sampling asks for, or the messages are too long.
            StageFailed: adapter_failed, or upstream_refused.
            Unavailable: it is away.
            DeadlineExceeded: the deadline passed.
        """
        self.connection.require_capabilities()
        uses = self.connection.modules.select_usable(request.adapters)
        with anyio.move_on_after(request.deadline - time.time()):
            if request.choices or request.ballots:
                return await score_choices(self.connection, request, uses)
            decoding = Decoding(self.connection, request, uses, on_piece=on_piece, on_acceptance=on_acceptance)
            return await decoding.run()
        raise DeadlineExceeded("the deadline passed while the upstream was working on the request.")

    async def count_tokens(self, messages: Sequence[Message], tooling: Tooling | None, *, thinking: bool) -> int:
        """Tokens of the prompt that a conversation makes, by the upstream's own tokenizer.

        Raises:
            InvalidInput: the template refuses the messages.
            StageFailed: code ``upstream_refused``: the upstream has no way to count them.
            Unavailable: it is away.
        """
        self.connection.require_capabilities()
        return await self.connection.count_tokens(count_body(messages, tooling, thinking=thinking))

    def forget(self) -> None:
        """Count that the upstream may still hold forgotten text: its prompt cache cannot be dropped from here."""
        count_degraded(
            "upstream.forget", "an upstream's cached prompts cannot be dropped from here: restart it, or wait"
        )

    @property
    def verdicts(self) -> None:
        """None: whoever runs the upstream answers for its adapters."""
        return None

    def make_watch(self, bus: Bus) -> None:  # noqa: ARG002 - the protocol's signature
        """None: the upstream's adapters are named in the settings."""
        return None

    def filter_served(self, uses: Sequence[AdapterUse]) -> tuple[AdapterUse, ...]:
        """The adapters among ``uses`` that the settings name, in the same order."""
        return tuple(use for use in uses if use.name in self._upstream.adapters)

    @property
    def prefetches(self) -> bool:
        """Never: the upstream loads at the first use."""
        return False

    async def prefetch(self, uses: tuple[AdapterUse, ...]) -> None:
        """Do nothing: the upstream loads an adapter at its first use."""

    async def adapters(self) -> AdapterListReply:
        """All registered adapters.

        Raises:
            Unavailable: the upstream is away.
        """
        return await self.connection.modules.list_adapters()

    async def administer(self, verb: str, name: str, sha256: str = "") -> AdapterInfo:
        """Check, load, unload or activate an adapter at the upstream.

        Raises:
            StageFailed: code ``adapter_failed``.
            Unavailable: the upstream is away.
        """
        return await self.connection.modules.perform(verb, name, sha256)

    def consolidation(self, bus: Bus, worker: str) -> None:
        """None: the weights are in another process."""
