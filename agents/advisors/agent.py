"""An advisor as an agent: ``advise.<name>``, one request at a time, on a thread; a turn advances its state once."""

import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import anyio
import anyio.to_thread

from bus.agent import Endpoint
from bus.connection import Bus
from bus.handler import Handler
from schemas.advisors import AdviseReply, AdviseRequest
from schemas.calls import ADVISE
from schemas.errors import Unavailable
from schemas.status import StatusReply

Advise = Callable[[AdviseRequest], AdviseReply]
"""Gives advice on a request. It blocks, and is called by one thread at a time."""

MAX_REPLIES = 1024
"""Turns whose advice is kept, so that a turn that is delivered again gets the same advice."""


class AdvisorAgent:
    """Gives the router advice on turns."""

    def __init__(self, name: str, load: Callable[[], Advise]) -> None:
        self.name = name
        self._load = load
        self._advise: Advise | None = None
        self._replies: OrderedDict[str, AdviseReply] = OrderedDict()
        self._lock = anyio.Lock()
        self._turns = 0
        self._silent_turns = 0

    @contextlib.asynccontextmanager
    async def open(self, _: Bus) -> AsyncIterator[None]:
        """Load the sibling's package and its weights.

        Raises:
            SetupError: the package or the weights are missing, or the weights may not be read.
        """
        self._advise = await anyio.to_thread.run_sync(self._load)
        yield

    def handlers(self) -> Sequence[Handler[Any]]:
        """Reads no events."""
        return ()

    def endpoints(self) -> Sequence[Endpoint]:
        """Answers ``advise.<name>``."""
        return (Endpoint(ADVISE.at(self.name), self.advise),)

    def status(self) -> StatusReply:
        """Ready once the package is loaded. ``silent`` counts the turns for which there was no advice."""
        gauges = {"asked": float(self._turns), "silent": float(self._silent_turns)}
        return StatusReply(agent=self.name, ready=self._advise is not None, gauges=gauges)

    async def advise(self, request: AdviseRequest) -> AdviseReply:
        """Advise on a turn; the same turn asked again gets the same reply."""
        if self._advise is None:
            raise Unavailable(f"{self.name} has not loaded yet.")
        async with self._lock:
            if (earlier_reply := self._replies.get(request.turn_id)) is not None:
                return earlier_reply
            reply = await anyio.to_thread.run_sync(self._advise, request)
            self._turns += 1
            self._silent_turns += not (reply.domains or reply.payload)
            self._replies[request.turn_id] = reply
            if len(self._replies) > MAX_REPLIES:
                self._replies.popitem(last=False)
            return reply
