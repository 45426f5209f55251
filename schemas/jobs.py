"""One call to the model, asked for by a cognitive stage and answered on the reply subject of its header."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from schemas.chat import Message, Sampling
from schemas.events import Event
from schemas.stages import MAX_ADAPTERS, AdapterUse, Candidate

Lane = Literal["interactive", "auxiliary", "background"]
"""Priority of a job: a person waits, a stage of a turn waits, nobody waits."""

LANES: tuple[Lane, ...] = ("interactive", "auxiliary", "background")


class Job(Event, frozen=True, kw_only=True):
    """Decode ``n`` candidates, or, when ``choices`` is not empty, score each of them as the continuation.

    ``reply`` is the core NATS subject that gets the :class:`JobResult`. ``job_id`` is unique for each
    attempt to ask, because a stage that restarts asks again and must not be taken for a duplicate.
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


class JobResult(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer to a job: candidates, or one total natural-log probability per choice; or why it failed."""

    job_id: str
    candidates: tuple[Candidate, ...] = ()
    logprobs: dict[str, float] = {}
    prompt_tokens: int = 0
    compute: float = 0.0
    code: str | None = None
    message: str = ""
    retryable: bool = False
