"""A registration: who the service is and what it wants, as the log has it and as its durable consumer carries it."""

import time
import uuid
from fnmatch import fnmatchcase

import msgspec
from msgspec import Struct

from bus import metrics
from bus.consumers import ConsumerState
from bus.record import DURABLE
from bus.subjects import Subjects
from schemas.errors import InvalidInput
from schemas.events import EpisodeForgotten, EpisodeRecorded
from schemas.services import EpisodeFilter, Record, RegisterRequest, ServiceRegistered

METADATA = "kiki-service"
"""The key of a durable consumer's metadata under which its registration stands."""

_KINDS = (EpisodeRecorded.subject, EpisodeForgotten.subject)


class Registration(Struct, frozen=True, kw_only=True):
    """A service's request. ``id`` is new each time that a name is registered."""

    id: str
    name: str
    subjects: tuple[str, ...]
    filter: EpisodeFilter
    ack_wait: float
    registered_at: float

    @property
    def durable(self) -> str:
        """The name of the durable consumer for the stock tools."""
        return f"{DURABLE}{self.name}"

    @property
    def reads_everything(self) -> bool:
        """Whether the filter leaves nothing out. Only then a consumer, which has no filter, may give records out."""
        return self.filter == EpisodeFilter()

    def filters(self, subjects: Subjects) -> list[str]:
        """The subjects that the service reads."""
        return [subjects.stage(kind) for kind in self.subjects]

    def wants(self, record: Record) -> bool:
        """Whether the filter lets the record pass."""
        wanted = self.filter
        if wanted.tenant not in (None, record.tenant) or wanted.user not in (None, record.user):
            return False
        if wanted.session_id not in (None, record.session_id):
            return False
        return record.episode is None or record.episode.saillance_score >= self.filter.min_saillance

    def asks_the_same(self, other: "Registration") -> bool:
        """Whether both ask for the same records in the same way."""
        return (self.subjects, self.filter, self.ack_wait) == (other.subjects, other.filter, other.ack_wait)


def make_registration(request: RegisterRequest) -> Registration:
    """The registration that a request asks for; nothing is stored yet.

    Raises:
        InvalidInput: a subject matches no event of the record.
    """
    return Registration(
        id=uuid.uuid4().hex,
        name=request.name,
        subjects=_match_kinds(request.subjects),
        filter=request.filter,
        ack_wait=request.ack_wait,
        registered_at=time.time(),
    )


def make_entry(service: Registration, *, place: int, delivered: int, marks_after: int) -> ServiceRegistered:
    """The log's entry with which a registration begins after the record ``place``."""
    return ServiceRegistered(
        name=service.name,
        registration=service.id,
        subjects=service.subjects,
        filter=service.filter,
        ack_wait=service.ack_wait,
        registered_at=service.registered_at,
        place=place,
        passed=place,
        delivered=delivered,
        marks_after=marks_after,
        at=time.time(),
    )


def read_entry(entry: ServiceRegistered) -> Registration:
    """The registration of an entry of the log."""
    return Registration(
        id=entry.registration,
        name=entry.name,
        subjects=entry.subjects,
        filter=entry.filter,
        ack_wait=entry.ack_wait,
        registered_at=entry.registered_at,
    )


def registration_of(consumer: ConsumerState) -> Registration | None:
    """The registration that a consumer stands for; None when no registration made it."""
    encoded = consumer.metadata.get(METADATA)
    if not encoded:
        return None
    try:
        service = msgspec.json.decode(encoded, type=Registration)
    except msgspec.DecodeError as error:
        metrics.count_degraded("services.consumer", f"the metadata of {consumer.name} cannot be read: {error}")
        return None
    return service if service.durable == consumer.name else None


def _match_kinds(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """The ``noun.verb`` of the record's events that ``patterns`` match.

    Raises:
        InvalidInput: a pattern matches none.
    """
    kinds: set[str] = set()
    for number, pattern in enumerate(patterns):
        matching = {kind for kind in _KINDS if pattern.count(".") == 1 and fnmatchcase(kind, pattern)}
        if not matching:
            raise InvalidInput(
                f"'{pattern}' matches nothing in the record: choose from {', '.join(_KINDS)}, or a * for a word.",
                code="matches_nothing",
                param=f"subjects[{number}]",
            )
        kinds |= matching
    return tuple(sorted(kinds, reverse=True))
