"""An advisor as an agent: one ``advise.<name>`` request at a time, on a thread; each turn steps its state once."""

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
from schemas.errors import Unavailable
from schemas.status import StatusReply

Advise = Callable[[AdviseRequest], AdviseReply]
"""Blocks; called by one thread at a time."""

REMEMBERED = 1024
"""Turns whose advice is kept, so that a turn that is delivered again hears the same."""


class AdvisorAgent:
    """Gives the router advice on turns."""

    def __init__(self, name: str, load: Callable[[], Advise]) -> None:
        self.name = name
        self._load = load
        self._advise: Advise | None = None
        self._given: OrderedDict[str, AdviseReply] = OrderedDict()
        self._turn = anyio.Lock()
        self._asked = 0
        self._silent = 0

    @contextlib.asynccontextmanager
    async def open(self, _: Bus) -> AsyncIterator[None]:
        """Load the package and its weights.

        Raises:
            SetupError: they are not there, or may not be read.
        """
        self._advise = await anyio.to_thread.run_sync(self._load)
        yield

    def handlers(self) -> Sequence[Handler[Any]]:
        """Reads no events."""
        return ()

    def endpoints(self) -> Sequence[Endpoint]:
        """Answers ``advise.<name>``."""
        return (Endpoint(verb=f"advise.{self.name}", request=AdviseRequest, handle=self.advise),)

    def status(self) -> StatusReply:
        """Ready once it is loaded. ``silent`` counts the turns that it had no advice for."""
        gauges = {"asked": float(self._asked), "silent": float(self._silent)}
        return StatusReply(agent=self.name, ready=self._advise is not None, gauges=gauges)

    async def advise(self, request: AdviseRequest) -> AdviseReply:
        """Advice on a turn; the same again when the turn is asked about again."""
        if self._advise is None:
            raise Unavailable(f"{self.name} has not loaded yet.")
        async with self._turn:
            if (given := self._given.get(request.turn_id)) is not None:
                return given
            reply = await anyio.to_thread.run_sync(self._advise, request)
            self._asked += 1
            self._silent += not (reply.domains or reply.payload)
            self._given[request.turn_id] = reply
            if len(self._given) > REMEMBERED:
                self._given.popitem(last=False)
            return reply
