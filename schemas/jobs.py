"""One call to the model: a cognitive stage publishes a job, and the worker answers on the job's reply subject."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from schemas.base import SUBJECT_PATTERN, Integer, WireStruct
from schemas.chat import Message, Sampling
from schemas.events import Event
from schemas.findings import MAX_ADAPTERS, AdapterUse, Candidate, RecalledEpisode
from schemas.numbers import Number

Lane = Literal["interactive", "auxiliary", "background"]
"""Priority of a job: a person waits, a stage of a turn waits, nobody waits."""

LANES: tuple[Lane, ...] = ("interactive", "auxiliary", "background")

MAX_BALLOTS = 32
"""The most ballots of one job."""

Ballot = Annotated[tuple[Message, ...], Meta(min_length=1)]
"""Messages that continue a job's messages; the choices are scored after them."""


class Job(Event, frozen=True, kw_only=True):
    """Decode ``n`` candidates, or, when ``choices`` is not empty, score each of them as the continuation.

    ``ballots`` are different continuations of ``messages``: the choices are scored after each of them, and the messages
    that the ballots share are processed once. ``recall`` are the episodes that the prompt quotes, as the turn's own
    prompt does, so that the worker can reuse its prompt cache. ``reply`` is the core NATS subject that gets the
    :class:`JobResult`. ``job_id`` is unique for each attempt to ask: a stage that restarts asks again, and that must
    not be dropped as a duplicate. ``enhance``: multiply the model's bias-knowledge neurons by the worker's factor, if
    it has one.
    """

    subject: ClassVar[str] = "job"
    job_id: str
    lane: Lane
    reply: Annotated[str, Meta(pattern=SUBJECT_PATTERN, max_length=255)]
    messages: Annotated[tuple[Message, ...], Meta(min_length=1)]
    adapters: Annotated[tuple[AdapterUse, ...], Meta(max_length=MAX_ADAPTERS)] = ()
    sampling: Sampling = Sampling()
    n: Annotated[int, Meta(ge=1, le=8)] = 1
    choices: Annotated[tuple[str, ...], Meta(max_length=16)] = ()
    ballots: Annotated[tuple[Ballot, ...], Meta(max_length=MAX_BALLOTS)] = ()
    recall: tuple[RecalledEpisode, ...] = ()
    enhance: bool = False


class JobResult(WireStruct, frozen=True, kw_only=True):
    """The answer to a job: candidates, or scores, or why it failed (``code`` is not None).

    ``scores`` has an entry for each ballot (one when the job has no ballots): the total natural-log probability of each
    choice. ``adapters`` are those that took part, with their digests. ``exact`` is false when the worker's upstream
    could score the choices by their first token only.
    """

    job_id: str
    candidates: tuple[Candidate, ...] = ()
    scores: tuple[dict[str, Number], ...] = ()
    adapters: tuple[AdapterUse, ...] = ()
    prompt_tokens: Integer = 0
    compute: float = 0.0
    exact: bool = True
    code: str | None = None
    message: str = ""
    retryable: bool = False
