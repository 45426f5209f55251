"""One call to the model, asked for by a cognitive stage and answered on the reply subject of its header."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from schemas.base import WireStruct
from schemas.chat import Message, Sampling
from schemas.events import Event
from schemas.findings import MAX_ADAPTERS, AdapterUse, Candidate, RecalledEpisode

Lane = Literal["interactive", "auxiliary", "background"]
"""Priority of a job: a person waits, a stage of a turn waits, nobody waits."""

LANES: tuple[Lane, ...] = ("interactive", "auxiliary", "background")


MAX_BALLOTS = 32
"""Ballots of one job."""

Ballot = Annotated[tuple[Message, ...], Meta(min_length=1)]


class Job(Event, frozen=True, kw_only=True):
    """Decode ``n`` candidates, or, when ``choices`` is not empty, score each of them as the continuation.

    ``ballots`` are different ways on from ``messages``: the choices are scored after each of them, in one pass over
    what they share. ``recall`` is quoted as in the turn's own prompt, so that what the worker kept of it is found.
    ``reply`` is the core NATS subject that gets the :class:`JobResult`. ``job_id`` is unique for each
    attempt to ask, because a stage that restarts asks again and must not be taken for a duplicate.
    ``enhance``: with the worker's factor on its bias-knowledge neurons, if it has any.
    """

    subject: ClassVar[str] = "job"
    job_id: str
    lane: Lane
    reply: str
    messages: Annotated[tuple[Message, ...], Meta(min_length=1)]
    adapters: Annotated[tuple[AdapterUse, ...], Meta(max_length=MAX_ADAPTERS)] = ()
    sampling: Sampling = Sampling()
    n: Annotated[int, Meta(ge=1, le=8)] = 1
    choices: Annotated[tuple[str, ...], Meta(max_length=16)] = ()
    ballots: Annotated[tuple[Ballot, ...], Meta(max_length=MAX_BALLOTS)] = ()
    recall: tuple[RecalledEpisode, ...] = ()
    enhance: bool = False


class JobResult(WireStruct, frozen=True, kw_only=True):
    """The answer to a job: candidates, or for each ballot (one when the job has none) the total natural-log
    probability of each choice; or why it failed. ``adapters`` are those that really took part, with their digests.

    ``exact`` is false when the worker's upstream could score the choices by their first token only.
    """

    job_id: str
    candidates: tuple[Candidate, ...] = ()
    scores: tuple[dict[str, float], ...] = ()
    adapters: tuple[AdapterUse, ...] = ()
    prompt_tokens: int = 0
    compute: float = 0.0
    exact: bool = True
    code: str | None = None
    message: str = ""
    retryable: bool = False
