"""The subject grammar: ``<prefix>.<noun>.<verb>.<turn_id>``, and the ids of messages."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.adapters import ADAPTER_EVENTS
from schemas.calls import AWAITS
from schemas.events import ENDS, STAGE_EVENTS, AnswerTaken, Event, InferDone, NegotiateDone, Signal
from schemas.flow import AdvicePublished
from schemas.jobs import LANES, Job, Lane
from schemas.services import EpisodesConsumed, ServiceRegistered

ANSWER_KINDS: tuple[type[Event], ...] = (*ENDS, AnswerTaken)
"""The events of ANSWERS: how turns end, and which answers were taken."""

SERVICE_KINDS = (ServiceRegistered, EpisodesConsumed, AdvicePublished)
"""What SERVICES holds."""

TURN_KINDS = tuple(kind for kind in STAGE_EVENTS if kind not in ANSWER_KINDS)
"""The events of TURNS. A stream takes no other verbs, so that whoever misspells one is told at once."""

DEFAULT_PREFIX = "kiki"

MSG_ID = "Nats-Msg-Id"
"""The header with a message's id: the broker drops a message with an id that it has stored already."""


def message_id(event: Event) -> str:
    """``<turn_id>:<noun>.<verb>``, so that a stage that is run again publishes a duplicate, which the broker drops.

    Catfish publishes one of two events, so the id has only their common noun: a second verdict is a duplicate, too. So
    is a second end of a turn, whichever it is.
    """
    if isinstance(event, Job):
        return f"{event.envelope.turn_id}:job.{event.job_id}"
    name = event.subject.split(".")[0] if event.subject.startswith("dissent.") else event.subject
    return f"{event.envelope.turn_id}:{'end' if isinstance(event, ENDS) else name}"


@dataclass(frozen=True)
class Subjects:
    """Builds every subject that the runtime uses; ``prefix`` is a setting.

    ``guests`` are, by the event that a stage publishes (``query.routed``), the agents that come after it, in order: the
    first reads that event, each publishes what it makes of it under its own noun (``polish.routed``), and the next
    stage reads what the last one published.
    """

    prefix: str = DEFAULT_PREFIX
    guests: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def input_of(self, stage: str, noun_verb: str) -> str:
        """What ``stage`` reads where it would read ``noun_verb`` without guests."""
        chain = self.guests.get(noun_verb, ())
        before = chain[: chain.index(stage)] if stage in chain else chain
        return _under(before[-1], noun_verb) if before else noun_verb

    def output_of(self, stage: str, noun_verb: str) -> str:
        """What ``stage`` publishes an event ``noun_verb`` as: a guest under its own noun."""
        return _under(stage, noun_verb) if stage in self.guests.get(noun_verb, ()) else noun_verb

    @property
    def guest_events(self) -> dict[str, str]:
        """What guests publish, with the event that each of these is: ``{"polish.routed": "query.routed"}``."""
        return {_under(guest, noun_verb): noun_verb for noun_verb, chain in self.guests.items() for guest in chain}

    @property
    def change_answers(self) -> bool:
        """Whether guests see an answer before its asker does, and may change it: nothing is streamed before them."""
        return any(self.guests.get(kind.subject) for kind in (InferDone, NegotiateDone))

    def place(self, event: Event, stage: str) -> tuple[str, str]:
        """The subject on which ``stage`` publishes the event, and its message id."""
        noun_verb, turn_id = self.output_of(stage, event.subject), event.envelope.turn_id
        if noun_verb == event.subject:
            return self.of(event), message_id(event)
        return self.stage(noun_verb, turn_id), f"{turn_id}:{noun_verb}"

    def of(self, event: Event | Signal) -> str:
        """The subject on which ``event`` is published."""
        if isinstance(event, Signal):
            return self.stage(event.subject, event.turn_id)
        if isinstance(event, Job):
            return self.stage(f"job.{event.lane}", event.envelope.turn_id)
        return self.stage(event.subject, event.envelope.turn_id)

    def stage(self, noun_verb: str, turn_id: str = "*") -> str:
        """The subject of one stage's event of one turn, or of all turns."""
        return f"{self.prefix}.{noun_verb}.{turn_id}"

    def turn(self, turn_id: str) -> str:
        """All events of one turn."""
        return f"{self.prefix}.*.*.{turn_id}"

    @staticmethod
    def kind(subject: str) -> str:
        """The ``<noun>.<verb>`` of an event's subject, whatever its prefix."""
        return ".".join(subject.split(".")[-3:-1])

    @staticmethod
    def key(subject: str) -> str:
        """The last token of a subject: the id of a turn, or the name of a service."""
        return subject.rsplit(".", 1)[-1]

    def owns(self, subject: str) -> bool:
        """Whether a subject is one of the runtime's own."""
        return subject.split(".", 1)[0] == self.prefix

    def lane(self, lane: Lane) -> str:
        """All jobs of one lane."""
        return self.stage(f"job.{lane}")

    def stream(self, name: str) -> str:
        """What the broker calls a stream: runtimes of other prefixes on one broker have streams of their own."""
        return name if self.prefix == DEFAULT_PREFIX else f"{self.prefix}-{name}"

    def awaits(self, turn_id: str) -> str:
        """The subject on which an asker listens for as long as it waits for its turn."""
        return self.service(AWAITS.at(turn_id).verb)

    def service(self, verb: str) -> str:
        """A request that any instance of the serving agent answers."""
        return f"{self.prefix}.svc.{verb}"

    def ask(self, tenant: str, verb: str) -> str:
        """A request of a tenant's service, which the gate answers."""
        return f"{self.prefix}.ask.{tenant}.{verb}"

    def dead(self, consumer: str, tenant: str) -> str:
        """Dead letters of one consumer, of one tenant. No tenant's name has ``~`` or ``%``."""
        return f"{self.prefix}.dead.{consumer}~{tenant.replace('.', '%')}"

    @property
    def turns(self) -> list[str]:
        """Subjects of the TURNS stream."""
        return [self.stage(noun_verb) for noun_verb in (*(kind.subject for kind in TURN_KINDS), *self.guest_events)]

    @property
    def answers(self) -> list[str]:
        """Subjects of the ANSWERS stream."""
        return [self.stage(kind.subject) for kind in ANSWER_KINDS]

    @property
    def episodes(self) -> list[str]:
        """Subjects of the EPISODES stream."""
        return [self.stage("episode.recorded"), self.stage("episode.forgotten")]

    @property
    def adapters(self) -> list[str]:
        """Subjects of the ADAPTERS stream."""
        return [self.stage(kind.subject) for kind in ADAPTER_EVENTS]

    @property
    def dreams(self) -> list[str]:
        """Subjects of the DREAMS queue."""
        return [self.stage("dream.requested")]

    @property
    def dream_log(self) -> list[str]:
        """Subjects of the DREAMLOG stream."""
        return [self.stage("dream.done"), self.stage("dream.aborted"), self.stage("dream.swapped")]

    @property
    def latents(self) -> list[str]:
        """Subjects of the LATENTS ring."""
        return [self.stage("dream.snapshot")]

    @property
    def jobs(self) -> list[str]:
        """Subjects of the JOBS stream."""
        return [self.lane(lane) for lane in LANES]

    @property
    def dead_letters(self) -> list[str]:
        """Subjects of the DEAD stream."""
        return [f"{self.prefix}.dead.*"]

    @property
    def storage_probe(self) -> str:
        """The subject of the STORAGE stream."""
        return f"{self.prefix}.storage.probe"

    @property
    def services(self) -> list[str]:
        """Subjects of the SERVICES stream: ``<prefix>.service.<verb>.<name>``."""
        return [self.stage(kind.subject) for kind in SERVICE_KINDS]


def _under(noun: str, noun_verb: str) -> str:
    return f"{noun}.{noun_verb.partition('.')[2]}"


def covers(wide: str, narrow: str) -> bool:
    """Whether ``wide`` matches every subject that ``narrow`` matches; both may hold ``*`` and a last ``>``."""
    wide_tokens, narrow_tokens = wide.split("."), narrow.split(".")
    if wide_tokens[-1] == ">":
        wide_tokens.pop()
        if len(narrow_tokens) <= len(wide_tokens):
            return False
    elif len(narrow_tokens) != len(wide_tokens) or narrow_tokens[-1] == ">":
        return False
    return all(token in ("*", other) and other != ">" for token, other in zip(wide_tokens, narrow_tokens, strict=False))
