"""A registration is a durable consumer of the record: its configuration says who it is and what it wants."""

import time
import uuid
from fnmatch import fnmatchcase

import msgspec
from msgspec import Struct

from bus.connection import Bus
from bus.consumers import ConsumerDeclaration, ConsumerState, create_consumer, update_consumer
from bus.errors import translate_errors
from bus.subjects import Subjects
from bus.topology import EPISODES
from schemas.errors import InvalidInput
from schemas.events import EpisodeForgotten, EpisodeRecorded
from schemas.services import EpisodeFilter, Record, RegisterRequest, ServiceInfo

DURABLE = "svc-"
"""The prefix of the names of registered services' durable consumers."""

WINDOW = 1024
"""The most records that may be delivered and not consumed; more than one fetch can ask for."""

_KEY = "kiki-service"
_KINDS = (EpisodeRecorded.subject, EpisodeForgotten.subject)


class Registration(Struct, frozen=True, kw_only=True):
    """A service's request, stored in its consumer's metadata. ``id`` is new each time that a name is registered."""

    id: str
    name: str
    subjects: tuple[str, ...]
    filter: EpisodeFilter
    ack_wait: float
    registered_at: float

    @property
    def durable(self) -> str:
        """The consumer's name."""
        return f"{DURABLE}{self.name}"

    def filters(self, subjects: Subjects) -> list[str]:
        """The subjects that the consumer reads."""
        return [subjects.stage(kind) for kind in self.subjects]

    def consumer(self, subjects: Subjects, *, new_only: bool) -> ConsumerDeclaration:
        """The declaration of the durable consumer that stands for the registration."""
        return ConsumerDeclaration(
            name=self.durable,
            filters=self.filters(subjects),
            description=f"The place of '{self.name}' in the record",
            ack_wait=self.ack_wait,
            window=WINDOW,
            new_only=new_only,
            metadata={_KEY: msgspec.json.encode(self).decode()},
        )

    def wants(self, record: Record) -> bool:
        """Whether the filter lets the record pass."""
        wanted = self.filter
        if wanted.tenant not in (None, record.tenant) or wanted.user not in (None, record.user):
            return False
        if wanted.session_id not in (None, record.session_id):
            return False
        return record.episode is None or record.episode.saillance_score >= self.filter.min_saillance


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


async def register(bus: Bus, service: Registration, *, new_only: bool) -> bool:
    """Create the durable consumer that stands for the registration; False when the name is taken.

    Raises:
        KikiError: the broker refuses the consumer, or is away.
    """
    with translate_errors(f"'{service.name}' was not registered"):
        return await create_consumer(bus, EPISODES, service.consumer(bus.subjects, new_only=new_only))


async def update_registration(bus: Bus, service: Registration, consumer: ConsumerState) -> None:
    """Bring the durable consumer of a registration to what this version declares; its place stays.

    Raises:
        SetupError: that would lose or repeat records; the consumer is left as it is.
    """
    declaration = service.consumer(bus.subjects, new_only=consumer.new_only)
    await update_consumer(bus, EPISODES, declaration, removal=f"kiki services unregister {service.name}")


def registration_of(consumer: ConsumerState) -> Registration | None:
    """The registration that a consumer stands for; None when the consumer is no registered service's."""
    encoded = consumer.metadata.get(_KEY)
    return msgspec.json.decode(encoded, type=Registration) if encoded else None


def service_info(service: Registration, *, place: int, delivered: int, lag: int) -> ServiceInfo:
    """The public description of a service."""
    return ServiceInfo(
        name=service.name,
        subjects=service.subjects,
        filter=service.filter,
        ack_wait=service.ack_wait,
        registered_at=service.registered_at,
        place=place,
        delivered=delivered,
        lag=lag,
    )


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
