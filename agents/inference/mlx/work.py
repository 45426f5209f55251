"""A request in the model's thread: its tokens, its state, and the way back to its caller."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass, field

from agents.inference.adapters.stacks import Seat
from agents.inference.candidates import select_usable
from agents.inference.mlx.prefill import SharedPrefill
from agents.inference.mlx.rows import DecodingRow
from agents.inference.mlx.scoring import Ballots
from agents.inference.prompt import Prompt
from agents.inference.requests import DecodingOutcome, Request
from agents.inference.text import Piece
from schemas.errors import DeadlineExceeded, KikiError
from schemas.findings import AdapterUse, Echo

WorkUpdate = Piece | DecodingOutcome | KikiError
"""What the model's thread sends to a waiting caller: text while it is decoded, then the outcome or an error."""


@dataclass(eq=False)
class Work:
    """A request in tokens. ``unwanted`` is set when nobody waits for its result any more, also from other threads.

    ``prompt`` is what all of its rows begin with; with ``choices`` it is followed by each of ``tails``, none empty.
    ``own_tokens`` are those of the request's own messages, ``budget`` the most tokens that a row may decode.
    ``key`` are the registered ones of the request's adapters, ``seat`` is their place in the bank, ``bytes`` the most
    that the work's caches may need, ``factor`` that of the enhancement. ``live``: the caller wants the text as it is
    decoded. ``lock`` is held by whoever gives the rows a token or ends them.
    """

    request: Request
    prompt: Prompt
    loop: asyncio.AbstractEventLoop
    inbox: "asyncio.Queue[WorkUpdate]"
    choices: tuple[tuple[int, ...], ...] = ()
    tails: tuple[tuple[int, ...], ...] = ()
    own_tokens: int = 0
    budget: int = 1
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
    echo: Echo | None = None
    admitted_at: float = 0.0
    live: bool = False
    unwanted: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def done(self) -> bool:
        """Whether every row has finished."""
        return bool(self.rows) and all(row.finish_reason is not None for row in self.rows)

    @property
    def size(self) -> int:
        """Rows of the batch that the work occupies until it is done."""
        return 1 if self.choices else self.request.n

    @property
    def shared_tokens(self) -> tuple[int, ...]:
        """Tokens processed once for all rows. A row that decodes processes the prompt's last token itself."""
        return self.prompt.tokens if self.choices else self.prompt.tokens[:-1]

    @property
    def width(self) -> int:
        """Rows of cache that the work needs at the same time."""
        if not self.choices:
            return self.request.n
        return len(self.tails) * (1 if max(map(len, self.choices)) == 1 else len(self.choices))

    @property
    def length(self) -> int:
        """Tokens that a row of the work's cache may hold at most."""
        rest = self.budget
        if self.choices:
            rest = max(map(len, self.tails)) + max(map(len, self.choices))
        return len(self.prompt.tokens) + rest

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt and of all tails."""
        return len(self.prompt.tokens) + sum(map(len, self.tails))

    @property
    def context(self) -> Hashable:
        """The key of the prompt cache besides the tokens: whose prompt it is (what another tenant asked shall not be
        told by the time that an answer takes), and what else the model's state depends on."""
        return self.request.tenant, self.adapters, self.factor

    @property
    def compute(self) -> float:
        """Seconds since the work joined the batch."""
        return time.monotonic() - self.admitted_at if self.admitted_at else 0.0

    def send(self, update: WorkUpdate) -> None:
        """Hand ``update`` to the caller that waits."""
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            self.loop.call_soon_threadsafe(self.inbox.put_nowait, update)

    def cut(self) -> None:
        """End with what there is by now, because the time is over; without any token with an error.

        It is called on the caller's thread: the model's may be in the middle of a long step.
        """
        with self.lock:
            if self.unwanted or self.done:
                return
            self.unwanted = True
            if not any(row.decoded for row in self.rows):
                self.send(self._make_error())
                return
            for row in self.rows:
                pieces = row.cut()
                for piece in pieces if self.live and row.index == 0 else ():
                    self.send(piece)
            self.send(self.outcome(cut=True))

    def outcome(self, *, scores: tuple[tuple[float, ...], ...] = (), cut: bool = False) -> DecodingOutcome:
        """The result of the finished rows, with ``scores`` of the choices."""
        prompt_tokens = self.prompt_tokens
        candidates = tuple(
            row.candidate(adapters=self.adapters, prompt_tokens=prompt_tokens, factor=self.factor) for row in self.rows
        )
        return DecodingOutcome(
            candidates=select_usable(candidates) if cut else candidates,
            scores=scores,
            adapters=self.adapters,
            prompt_tokens=prompt_tokens,
            own_tokens=self.own_tokens,
            cut=cut,
            echo=self.echo,
            compute=self.compute,
        )

    def _make_error(self) -> DeadlineExceeded:
        """Why there is no text, and what helps."""
        if not self.admitted_at:
            return DeadlineExceeded(
                "the turn's time was over while it waited for the model, which was busy with others: try again later."
            )
        if (prefill := self.prefill) is None:
            return DeadlineExceeded(
                "the turn's time was over before the model's first token: give it more time, or try again later."
            )
        read = f"{prefill.done} of {self.prompt_tokens} tokens"
        return DeadlineExceeded(
            f"the turn's time was over while the model read the prompt ({read}): try again, it goes on from there if "
            "the worker's cache holds that much; or shorten the conversation."
        )
