"""A request to an engine, and its outcome."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import chain

from agents.inference.arrangement import is_continued
from agents.inference.text import Piece
from bus.metrics import count_degraded
from schemas.chat import Message, Sampling, Tooling
from schemas.errors import StageFailed
from schemas.findings import AdapterUse, Candidate, Continuation, Echo
from schemas.jobs import Lane

OnPiece = Callable[[Piece], Awaitable[None]]
"""Gets the text of candidate 0 as it becomes certain."""


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """What is known of a request that can be served, before the model works on it: the tokens of its ``own`` messages
    (0 when they are not known), and the adapters that will take part."""

    prompt_tokens: int = 0
    adapters: tuple[AdapterUse, ...] = ()


OnAcceptance = Callable[[Acceptance], Awaitable[None]]
"""Hears once that the request can be served, before any piece. What is refused is refused without it."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Decode ``n`` candidates of the answer to ``messages``, or score each of ``choices`` as that answer's beginning.

    ``ballots`` are continuations of ``messages``: the choices are scored after each of them. ``deadline`` is a
    Unix time; adapters that are not registered are left out and counted. ``enhance``: apply the engine's
    factor to its bias-knowledge neurons, if it has any. ``thinking``: a model that can reason does so first.
    ``grammar`` is set by an engine that compiles one: what the answer must follow. Requests of different tenants share
    no kept prompt, and have their turn by what each tenant runs.

    ``finish`` is the Unix time at which the candidates end with what they have by then. ``own`` are the messages of the
    client where others were added to them; empty: all are. ``continuation``: the last message is continued as it is,
    or the tokens are.
    """

    lane: Lane
    tenant: str = ""
    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    adapters: tuple[AdapterUse, ...] = ()
    n: int = 1
    choices: tuple[str, ...] = ()
    ballots: tuple[tuple[Message, ...], ...] = ()
    tooling: Tooling | None = None
    deadline: float = float("inf")
    finish: float = float("inf")
    own: tuple[Message, ...] = ()
    continuation: Continuation | None = None
    enhance: bool = False
    thinking: bool = False
    grammar: str | None = None

    @property
    def continues_text(self) -> bool:
        """Whether what is decoded goes on from a text, so that a space at its beginning belongs to it."""
        return self.continuation is not None or is_continued(self.messages)

    @property
    def wants_scored_prompt(self) -> bool:
        """Whether the tokens of the continued text are asked for with their log-probabilities."""
        return self.continuation is not None and self.continuation.echo and self.sampling.logprobs


@dataclass(frozen=True, kw_only=True)
class DecodingOutcome:
    """Candidates; or ``scores``, for each ballot (without ballots there is one row) the total natural-log probability
    of each choice.

    ``own_tokens`` are those of the request's ``own`` messages; 0 when they are not known. ``cut``: the time was over
    before every candidate had ended, and those without any text are left out. ``echo`` says what was continued.
    ``compute`` is seconds from admission to the end; ``exact`` is false when the choices are scored by their first
    token only, which is all that some upstreams report.
    """

    candidates: tuple[Candidate, ...] = ()
    scores: tuple[tuple[float, ...], ...] = ()
    adapters: tuple[AdapterUse, ...] = ()
    prompt_tokens: int = 0
    own_tokens: int = 0
    cut: bool = False
    echo: Echo | None = None
    compute: float = 0.0
    exact: bool = True

    def require_finite(self) -> "DecodingOutcome":
        """The outcome itself.

        Raises:
            StageFailed: a log-probability is not finite: the model's numbers ran over.
        """
        numbers = [candidate.logprob for candidate in self.candidates]
        for token in chain((self.echo.tokens if self.echo else ()), *(each.tokens for each in self.candidates)):
            numbers += [token.logprob, *(likely.logprob for likely in token.top)]
        if not all(map(math.isfinite, chain(numbers, *self.scores))):
            raise make_overflow()
        return self


def make_overflow() -> StageFailed:
    """The error of a request whose log-probabilities are no numbers; it is counted here."""
    count_degraded("inference.not_finite", "the model's numbers ran over")
    return StageFailed(
        "the model's log-probabilities are not finite, so there is no answer: ask with milder penalties, or without "
        "the adapters."
    )
