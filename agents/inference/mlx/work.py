"""A request on its way through the model's thread."""

import asyncio
import contextlib
import time
from collections.abc import Hashable
from dataclasses import dataclass, field

from agents.inference.adapters.bank import Seat
from agents.inference.mlx.prefill import SharedPrefill
from agents.inference.mlx.rows import DecodingRow
from agents.inference.mlx.scoring import Ballots
from agents.inference.prompt import Prompt
from agents.inference.requests import DecodingOutcome, Request
from agents.inference.text import Piece
from schemas.errors import KikiError
from schemas.findings import AdapterUse

WorkUpdate = Piece | DecodingOutcome | KikiError


@dataclass(eq=False)
class Work:
    """A request in tokens. ``unwanted`` is set when nobody waits for its result any more, also from other threads.

    ``prompt`` is what all of its rows begin with; with ``choices`` it is followed by each of ``tails``, none empty.
    ``key`` is the set of adapters that it asked for and that is registered, ``seat`` where the bank holds it, ``bytes``
    what its caches may come to need, ``factor`` that of the enhancement.
    """

    request: Request
    prompt: Prompt
    loop: asyncio.AbstractEventLoop
    inbox: "asyncio.Queue[WorkUpdate]"
    choices: tuple[tuple[int, ...], ...] = ()
    tails: tuple[tuple[int, ...], ...] = ()
    adapters: tuple[AdapterUse, ...] = ()
    key: tuple[AdapterUse, ...] = ()
    seat: Seat | None = None
    alone: bool = False
    bytes: int = 0
    factor: float = 1.0
    uids: tuple[int, ...] = ()
    rows: list[DecodingRow] = field(default_factory=list)
    prefill: SharedPrefill | None = None
    scoring: Ballots | None = None
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
    def shared_tokens(self) -> tuple[int, ...]:
        """What is processed once for all rows; a decoded row begins with the prompt's last token."""
        return self.prompt.tokens if self.choices else self.prompt.tokens[:-1]

    @property
    def width(self) -> int:
        """Rows of cache that it needs side by side."""
        if not self.choices:
            return self.request.n
        return len(self.tails) * (1 if max(map(len, self.choices)) == 1 else len(self.choices))

    @property
    def length(self) -> int:
        """Tokens that a row of its cache may come to hold."""
        rest = self.request.sampling.max_tokens
        if self.choices:
            rest = max(map(len, self.tails)) + max(map(len, self.choices))
        return len(self.prompt.tokens) + rest

    @property
    def prompt_tokens(self) -> int:
        """Tokens that are read for it."""
        return len(self.prompt.tokens) + sum(map(len, self.tails))

    @property
    def context(self) -> Hashable:
        """What decides, besides its tokens, what the model makes of a prompt."""
        return self.adapters, self.factor

    @property
    def compute(self) -> float:
        """Seconds since the model began with it."""
        return time.monotonic() - self.admitted_at

    def send(self, update: WorkUpdate) -> None:
        """Hand ``update`` to the caller that waits."""
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            self.loop.call_soon_threadsafe(self.inbox.put_nowait, update)

    def outcome(self, *, scores: tuple[tuple[float, ...], ...] = ()) -> DecodingOutcome:
        """The result of the finished rows, with ``scores`` of the choices."""
        prompt_tokens = self.prompt_tokens
        return DecodingOutcome(
            candidates=tuple(
                row.candidate(adapters=self.adapters, prompt_tokens=prompt_tokens, factor=self.factor)
                for row in self.rows
            ),
            scores=scores,
            adapters=self.adapters,
            prompt_tokens=prompt_tokens,
            compute=self.compute,
        )
