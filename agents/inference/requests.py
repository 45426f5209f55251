"""A request to an engine, and its outcome."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from agents.inference.text import Piece
from schemas.chat import Message, Sampling, Tooling
from schemas.findings import AdapterUse, Candidate
from schemas.jobs import Lane

OnPiece = Callable[[Piece], Awaitable[None]]
"""Gets the text of candidate 0 as it becomes certain."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Decode ``n`` candidates of the answer to ``messages``, or score each of ``choices`` as that answer's beginning.

    ``ballots`` are continuations of ``messages``: the choices are scored after each of them. ``deadline`` is a
    Unix time; adapters that are not registered are left out and counted. ``enhance``: apply the engine's
    factor to its bias-knowledge neurons, if it has any. ``thinking``: a model that can reason does so first.
    ``grammar`` is set by an engine that compiles one: what the answer must follow.
    """

    lane: Lane
    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    adapters: tuple[AdapterUse, ...] = ()
    n: int = 1
    choices: tuple[str, ...] = ()
    ballots: tuple[tuple[Message, ...], ...] = ()
    tooling: Tooling | None = None
    deadline: float = float("inf")
    enhance: bool = False
    thinking: bool = False
    grammar: str | None = None


@dataclass(frozen=True, kw_only=True)
class DecodingOutcome:
    """Candidates; or ``scores``, for each ballot (without ballots there is one row) the total natural-log probability
    of each choice.

    ``compute`` is seconds from admission to the end; ``exact`` is false when the choices are scored by their first
    token only, which is all that some upstreams report.
    """

    candidates: tuple[Candidate, ...] = ()
    scores: tuple[tuple[float, ...], ...] = ()
    adapters: tuple[AdapterUse, ...] = ()
    prompt_tokens: int = 0
    compute: float = 0.0
    exact: bool = True
