"""The protocol of an engine: :class:`agents.inference.mlx.engine.MlxEngine`, or one that asks an upstream server."""

from collections.abc import Sequence
from typing import NoReturn, Protocol

from agents.inference.adapter_watch import AdapterWatch
from agents.inference.requests import DecodingOutcome, OnAcceptance, OnPiece, Request
from agents.shared.adapters.verdicts import VerdictFolder
from bus.agent import Endpoint
from bus.connection import Bus
from schemas.adapters import AdapterInfo, AdapterListReply
from schemas.chat import Message, Tooling
from schemas.findings import AdapterUse


class Engine(Protocol):
    """Decodes requests. Call :meth:`start` first and :meth:`stop` last; cancelling a call stops its work."""

    async def start(self) -> None:
        """Get ready to answer; returns once a token has been decoded.

        Raises:
            SetupError: the settings do not work as they are.
        """

    async def stop(self) -> None:
        """Release everything."""

    async def watch(self) -> NoReturn:
        """Raise when the engine cannot recover in this process."""

    @property
    def healthy(self) -> bool:
        """Whether it can answer now."""

    @property
    def gauges(self) -> dict[str, float]:
        """Counts, bytes and milliseconds for the status."""

    @property
    def info(self) -> dict[str, str]:
        """Texts for the status: ``device``; ``adapters``, the names of those in the model now; ``registered``, those of
        all that can be served; ``ungated``, ``waiting`` and ``refused``, what the gates say of them."""

    async def generate(
        self, request: Request, on_piece: OnPiece | None = None, on_acceptance: OnAcceptance | None = None
    ) -> DecodingOutcome:
        """Run a request. At its ``finish`` time it ends with what there is by then.

        Raises:
            InvalidInput: the request cannot be served as it is; ``context_length_exceeded`` if it is too long.
            DeadlineExceeded: the time was over before there was any text.
            KikiError: adapter_failed, or unavailable when the engine is away.
        """

    async def count_tokens(self, messages: Sequence[Message], tooling: Tooling | None, *, thinking: bool) -> int:
        """Tokens of the prompt that a conversation makes, however many there are.

        Raises:
            InvalidInput: the template refuses the messages.
            StageFailed: code ``upstream_refused``: the engine cannot count.
            Unavailable: the engine is away.
        """

    @property
    def verdicts(self) -> VerdictFolder | None:
        """What the gates say of the adapters; None for an engine without a folder of adapters."""

    def make_watch(self, bus: Bus) -> AdapterWatch | None:
        """What sees new weights in the folder of adapters; None for an engine without one."""

    @property
    def parameters(self) -> int:
        """Weights of the model; 0 when it is not known."""

    def filter_served(self, uses: Sequence[AdapterUse]) -> tuple[AdapterUse, ...]:
        """The adapters among ``uses`` that the engine can serve, in the same order."""

    @property
    def prefetches(self) -> bool:
        """Whether :meth:`prefetch` can do anything here."""

    async def prefetch(self, uses: tuple[AdapterUse, ...]) -> None:
        """Prepare for requests with these adapters; a hint."""

    def forget(self) -> None:
        """Drop all cached prompts, because a text that may be in them was forgotten."""

    async def adapters(self) -> AdapterListReply:
        """All registered adapters."""

    async def administer(self, verb: str, name: str, sha256: str = "") -> AdapterInfo:
        """Check, load, unload or activate an adapter; with ``sha256`` only if its file has that digest.

        Raises:
            StageFailed: code ``adapter_failed``.
        """

    def consolidation(self, bus: Bus, worker: str) -> "AdapterVerbs | None":
        """The verbs ``adapters.{export,train,protect,stage,angles,exchange,restore,discard}``; None for an engine
        without weights. ``worker`` is the identity of this worker."""


class AdapterVerbs(Protocol):
    """What changes the files of adapters (:class:`agents.inference.mlx.consolidation.Consolidation`)."""

    def endpoints(self) -> Sequence[Endpoint]:
        """One endpoint for each verb."""

    async def follow_swaps(self) -> None:
        """Take over the swaps that other workers made while this one was away.

        Raises:
            Unavailable: the broker is away.
        """
