"""A request on its way through the model's thread."""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from agents.inference.adapters import Seat
from agents.inference.prefill import SharedPrefill
from agents.inference.prompt import Prompt
from agents.inference.requests import Outcome, Request
from agents.inference.rows import Row
from agents.inference.text import Piece
from schemas.errors import KikiError
from schemas.stages import AdapterUse

News = Piece | Outcome | KikiError


@dataclass(eq=False)
class Work:
    """A request with the tokens of its ``prompt`` and ``choices``. ``unwanted`` is set by whoever waits, elsewhere.

    ``key`` is the set of adapters that it asked for and that is registered, ``seat`` where the bank holds it, ``bytes``
    what its caches may come to need.
    """

    request: Request
    prompt: Prompt
    loop: asyncio.AbstractEventLoop
    inbox: "asyncio.Queue[News]"
    choices: tuple[tuple[int, ...], ...] = ()
    adapters: tuple[AdapterUse, ...] = ()
    key: tuple[AdapterUse, ...] = ()
    seat: Seat | None = None
    alone: bool = False
    bytes: int = 0
    uids: tuple[int, ...] = ()
    rows: list[Row] = field(default_factory=list)
    prefill: SharedPrefill | None = None
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
        return 1 if self.choices else self.request.n

    @property
    def compute(self) -> float:
        """Seconds since the model began with it."""
        return time.monotonic() - self.admitted_at

    def tell(self, news: News) -> None:
        """Hand ``news`` to who waits."""
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            self.loop.call_soon_threadsafe(self.inbox.put_nowait, news)

    def outcome(self, *, logprobs: tuple[float, ...] = ()) -> Outcome:
        """What it came to; ``logprobs`` of the choices."""
        prompt_tokens = len(self.prompt.tokens)
        return Outcome(
            candidates=tuple(row.candidate(adapters=self.adapters, prompt_tokens=prompt_tokens) for row in self.rows),
            logprobs=logprobs,
            adapters=self.adapters,
            prompt_tokens=prompt_tokens,
            compute=self.compute,
        )
