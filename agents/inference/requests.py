"""What the engine is asked and what it answers, on both sides of its thread."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agents.inference.prompt import Prompt
from agents.inference.rows import Row
from agents.inference.text import Piece
from schemas.chat import Sampling
from schemas.errors import KikiError
from schemas.jobs import Lane
from schemas.stages import AdapterUse, Candidate

if TYPE_CHECKING:
    from agents.inference.adapters import Seat
    from agents.inference.prefill import SharedPrefill


@dataclass(frozen=True, kw_only=True)
class Request:
    """Decode ``n`` candidates of ``prompt``, or score ``choices`` (token ids) as its continuation.

    ``deadline`` is a Unix time; adapters that are not registered are left out and counted.
    """

    lane: Lane
    prompt: Prompt
    sampling: Sampling = field(default_factory=Sampling)
    adapters: tuple[AdapterUse, ...] = ()
    n: int = 1
    choices: tuple[tuple[int, ...], ...] = ()
    deadline: float = float("inf")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Candidates, or one total log-probability a choice; ``compute`` is seconds from admission to the end."""

    candidates: tuple[Candidate, ...] = ()
    logprobs: tuple[float, ...] = ()
    adapters: tuple[AdapterUse, ...] = ()
    prompt_tokens: int = 0
    compute: float = 0.0


@dataclass(eq=False)
class Work:
    """A request on its way through the engine's thread. ``unwanted`` is set by whoever waits, from its own thread.

    ``key`` is the set of adapters that it asked for and that is registered, ``seat`` where the bank holds it, ``bytes``
    what its caches may come to need.
    """

    request: Request
    loop: asyncio.AbstractEventLoop
    inbox: "asyncio.Queue[Piece | Outcome | KikiError]"
    adapters: tuple[AdapterUse, ...] = ()
    key: tuple[AdapterUse, ...] = ()
    seat: "Seat | None" = None
    alone: bool = False
    bytes: int = 0
    uids: tuple[int, ...] = ()
    rows: list[Row] = field(default_factory=list)
    prefill: "SharedPrefill | None" = None
    admitted_at: float = 0.0
    live: bool = False
    unwanted: bool = False

    @property
    def done(self) -> bool:
        """Whether every row has finished."""
        return bool(self.rows) and all(row.finish_reason is not None for row in self.rows)

    @property
    def size(self) -> int:
        """Rows of the batch that it holds until it is done."""
        return 1 if self.request.choices else self.request.n

    def tell(self, news: "Piece | Outcome | KikiError") -> None:
        """Hand ``news`` to who waits."""
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            self.loop.call_soon_threadsafe(self.inbox.put_nowait, news)

    @property
    def compute(self) -> float:
        """Seconds since the model began with it."""
        return time.monotonic() - self.admitted_at
