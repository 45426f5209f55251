"""Every event of a turn. Each carries all earlier findings, so that a stage needs no look-up and a replay no join."""

from typing import ClassVar, Literal

from schemas.base import Integer, WireStruct
from schemas.chat import Usage
from schemas.envelope import Envelope
from schemas.episode import Episode
from schemas.errors import InvalidEvent, KikiError
from schemas.findings import (
    AdapterUse,
    BiasReport,
    Dissent,
    FinishReason,
    Inference,
    Negotiation,
    Query,
    Recall,
    Route,
    StageTiming,
    TokenLogprob,
)


class Event(WireStruct, frozen=True, kw_only=True):
    """Base of all events. ``subject`` is ``<noun>.<verb>``; the bus adds the prefix and the turn id.

    ``publisher`` names the stage that it comes from, for errors.
    """

    subject: ClassVar[str]
    publisher: ClassVar[str] = ""
    envelope: Envelope


class QueryReceived(Event, frozen=True, kw_only=True):
    """A client or a service asks a question. Published by the facade or by any service; read by the router."""

    subject: ClassVar[str] = "query.received"
    publisher: ClassVar[str] = "asker"
    query: Query


class QueryRouted(Event, frozen=True, kw_only=True):
    """Domains, adapters and the plan are chosen. Read by memory, and by inference, which prefetches the adapter."""

    subject: ClassVar[str] = "query.routed"
    publisher: ClassVar[str] = "router"
    query: Query
    route: Route
    timings: tuple[StageTiming, ...] = ()


class RecallDone(Event, frozen=True, kw_only=True):
    """Episodes are recalled, or the plan has no recall. Read by inference."""

    subject: ClassVar[str] = "recall.done"
    publisher: ClassVar[str] = "memory"
    query: Query
    route: Route
    recall: Recall
    timings: tuple[StageTiming, ...] = ()


class InferToken(WireStruct, frozen=True, kw_only=True):
    """A piece of candidate 0's text. Core NATS only, never stored.

    ``index`` counts from 0 without gaps within an ``attempt``; a redelivered turn decodes again with a higher attempt.
    ``tokens`` are present when the sampling asks for log-probabilities: those of all tokens that were decoded since the
    piece before. They may run ahead of the text, which is held back while it could become a mark or half a character.
    """

    subject: ClassVar[str] = "infer.token"
    turn_id: str
    index: Integer
    text: str
    attempt: Integer = 1
    kind: Literal["content", "reasoning"] = "content"
    tokens: tuple[TokenLogprob, ...] = ()


class InferBegun(WireStruct, frozen=True, kw_only=True):
    """The worker has accepted a turn that is streamed: its prompt fits and its schemas compile. Core NATS only, never
    stored. ``prompt_tokens`` counts the query's own messages; ``adapters`` are those that will take part.
    ``model_digest`` is that of the model's files.
    """

    subject: ClassVar[str] = "infer.begun"
    turn_id: str
    attempt: Integer = 1
    prompt_tokens: Integer = 0
    adapters: tuple[AdapterUse, ...] = ()
    model_digest: str = ""


Signal = InferBegun | InferToken
"""What is published while a turn is at work and is in no stream."""


class InferDone(Event, frozen=True, kw_only=True):
    """All candidates are decoded. Read by the negotiator and by catfish."""

    subject: ClassVar[str] = "infer.done"
    publisher: ClassVar[str] = "inference"
    query: Query
    route: Route
    recall: Recall
    inference: Inference
    timings: tuple[StageTiming, ...] = ()


class _CatfishEvent(Event, frozen=True, kw_only=True):
    publisher: ClassVar[str] = "catfish"
    dissent: Dissent
    timings: tuple[StageTiming, ...] = ()


class DissentRaised(_CatfishEvent, frozen=True, kw_only=True):
    """Catfish objects. Read by the negotiator."""

    subject: ClassVar[str] = "dissent.raised"


class DissentWaived(_CatfishEvent, frozen=True, kw_only=True):
    """Catfish raises no objection; ``dissent.reason`` says why. Read by the negotiator."""

    subject: ClassVar[str] = "dissent.waived"


class NegotiateDone(Event, frozen=True, kw_only=True):
    """A candidate is chosen. Read by antibias."""

    subject: ClassVar[str] = "negotiate.done"
    publisher: ClassVar[str] = "negotiator"
    query: Query
    route: Route
    recall: Recall
    inference: Inference
    negotiation: Negotiation
    timings: tuple[StageTiming, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.inference.candidates)
        if not 0 <= self.negotiation.chosen < count:
            raise InvalidEvent(
                f"negotiation.chosen is {self.negotiation.chosen}: there are {count} candidates.",
                param="negotiation.chosen",
            )


class AnswerReady(Event, frozen=True, kw_only=True):
    """The final answer. Read by the facade, and by memory, which records the episode off the critical path."""

    subject: ClassVar[str] = "answer.ready"
    publisher: ClassVar[str] = "antibias"
    query: Query
    route: Route
    recall: Recall
    inference: Inference
    negotiation: Negotiation
    bias: BiasReport
    text: str
    finish_reason: FinishReason
    usage: Usage
    timings: tuple[StageTiming, ...] = ()

    @property
    def is_recorded(self) -> bool:
        """Whether the record gets the turn. A tool call is no answer yet: the turn with its result is recorded."""
        return self.route.plan.record and self.query.store and self.finish_reason != "tool_calls"


class AnswerTaken(Event, frozen=True, kw_only=True):
    """The asker of an awaited turn gives its answer on. Published by the asker; the memory records the turn then."""

    subject: ClassVar[str] = "answer.taken"
    publisher: ClassVar[str] = "asker"


class EpisodeRecorded(Event, frozen=True, kw_only=True):
    """The immutable episode. Read by projections, consolidation and any service."""

    subject: ClassVar[str] = "episode.recorded"
    publisher: ClassVar[str] = "memory"
    episode: Episode

    def __post_init__(self) -> None:
        for name in ("turn_id", "session_id", "tenant", "user"):
            if getattr(self.episode, name) != getattr(self.envelope, name):
                raise InvalidEvent(
                    f"episode.{name} is not that of the envelope: an episode belongs to whom its event names.",
                    param=f"episode.{name}",
                )


class EpisodeForgotten(Event, frozen=True, kw_only=True):
    """A tombstone: the episode's owner had it deleted. Every service that keeps a copy must delete it.

    ``erased`` holds the sequences in ``EPISODES`` whose messages were deleted with it; earlier versions named none.
    """

    subject: ClassVar[str] = "episode.forgotten"
    episode_id: str
    erased: tuple[Integer, ...] = ()


class TurnFailed(Event, frozen=True, kw_only=True):
    """A stage gave up on the turn. ``code`` is one of :data:`schemas.errors.CODES`; ``param`` names the query's field
    at fault."""

    subject: ClassVar[str] = "turn.failed"
    stage: str
    code: str
    message: str
    retryable: bool
    param: str | None = None


class TurnCancelled(Event, frozen=True, kw_only=True):
    """The client went away or asked to stop. Every stage drops the turn, down to the decode step.

    ``retryable`` says that nobody decided against the turn: whoever asked has left it, and one who waits for it too
    may ask again.
    """

    subject: ClassVar[str] = "turn.cancelled"
    reason: str
    retryable: bool = False


def failure(envelope: Envelope, stage: str, error: KikiError) -> TurnFailed:
    """The event that tells everybody that ``stage`` gave up on the turn of ``envelope``."""
    return TurnFailed(
        envelope=envelope.next(f"{stage}.failed"),
        stage=stage,
        code=error.code,
        message=error.message,
        retryable=error.retryable,
        param=error.param,
    )


ENDS: tuple[type[Event], ...] = (AnswerReady, TurnFailed, TurnCancelled)
"""The events with which a turn ends: the first of them that ANSWERS holds."""

STAGE_EVENTS: tuple[type[Event], ...] = (
    QueryReceived,
    QueryRouted,
    RecallDone,
    InferDone,
    DissentRaised,
    DissentWaived,
    NegotiateDone,
    *ENDS,
    AnswerTaken,
)
"""The events of a turn, in their order."""
