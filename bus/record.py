"""The record's episodes from the first to the last, and how far its readers are: registered services and consumers.

How far a service is, the log SERVICES says: its registration, and its marks. A message of the log that nobody can read,
or that is a stranger's, is passed over and counted.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

import structlog

from bus import metrics
from bus.connection import Bus
from bus.consumers import read_consumers
from bus.stream import (
    StoredMessage,
    list_subjects,
    measure_stream,
    read_last,
    read_latest,
    read_next,
    read_stream,
    search_back,
)
from bus.subjects import Subjects
from bus.topology import EPISODES, SERVICES
from schemas.codec import decode
from schemas.envelope import Envelope
from schemas.episode import Episode
from schemas.errors import InvalidEvent
from schemas.events import EpisodeForgotten, EpisodeRecorded
from schemas.services import EpisodesConsumed, Record, ServiceRegistered

DURABLE = "svc-"
"""The prefix of the names of registered services' durable consumers."""

TAIL = 1000
"""Entries at the record's end among which a session's newest one is looked for."""

_KINDS = {EpisodeRecorded.subject, EpisodeForgotten.subject}

_log = structlog.get_logger("bus")


@dataclass(frozen=True)
class ServiceStanding:
    """How far a registered service is, as the log has it.

    Attributes:
        entry: the registration.
        entry_seq: the log's sequence of the last message on the registration's subject.
        last: the latest mark of this registration; None when there is none.
        last_seq: the log's sequence of the last message on the subject of its marks, 0 without one.
    """

    entry: ServiceRegistered
    entry_seq: int
    last: EpisodesConsumed | None
    last_seq: int

    @property
    def durable(self) -> str:
        """The name of the durable consumer for the stock tools."""
        return f"{DURABLE}{self.entry.name}"

    @property
    def place(self) -> int:
        """The record up to which everything is consumed."""
        return max(self.entry.place, self.last.ids[-1] if self.last else 0)

    @property
    def passed(self) -> int:
        """The record up to which there is nothing that the service wants and has not consumed."""
        return max(self.entry.passed, self.place)

    @property
    def delivered(self) -> int:
        """The record up to which everything was given to the service."""
        return max(self.entry.delivered, self.place)


async def read_episodes(
    bus: Bus, *, tenant: str | None = None, user: str | None = None
) -> AsyncGenerator[Episode, None]:
    """The episodes that are recorded by now, oldest first: a tenant's, one of its users', or all.

    Those that cannot be read are only logged.

    Raises:
        Unavailable: the broker is away, or stops in the middle.
    """
    async with aclosing(read_timed_episodes(bus, tenant=tenant, user=user)) as timed_episodes:
        async for episode, _ in timed_episodes:
            yield episode


async def read_timed_episodes(
    bus: Bus, *, tenant: str | None = None, user: str | None = None
) -> AsyncGenerator[tuple[Episode, float], None]:
    """The same as :func:`read_episodes`, each with the Unix time at which it was stored.

    Raises:
        Unavailable: the broker is away, or stops in the middle.
    """
    async with aclosing(read_entries(bus)) as entries:
        async for message, episode in entries:
            if episode is not None and tenant in (None, episode.tenant) and user in (None, episode.user):
                yield episode, message.stored_at.timestamp()


async def read_entries(bus: Bus) -> AsyncGenerator[tuple[StoredMessage, Episode | None], None]:
    """The messages that record episodes by now, oldest first; with None, and a line in the log, when one is unreadable.

    Raises:
        Unavailable: the broker is away, or stops in the middle.
    """
    async with aclosing(read_stream(bus, EPISODES, [bus.subjects.stage(EpisodeRecorded.subject)])) as messages:
        async for message in messages:
            try:
                episode = decode(EpisodeRecorded, message.data).episode
            except InvalidEvent as error:
                _log.warning("episode unreadable", seq=message.seq, subject=message.subject, error=error.message)
                episode = None
            yield message, episode


async def read_entries_and_tombstones(
    bus: Bus, *, until: int
) -> AsyncGenerator[tuple[StoredMessage, EpisodeRecorded | EpisodeForgotten | None], None]:
    """All messages of the record up to the sequence ``until``, oldest first; with None when one is unreadable.

    Raises:
        Unavailable: the broker is away, or stops in the middle.
    """
    async with aclosing(read_stream(bus, EPISODES, bus.subjects.episodes, until=until)) as messages:
        async for message in messages:
            yield message, _parse_entry(message)


async def list_forgotten(bus: Bus) -> set[str]:
    """The ids of all episodes that have a tombstone by now; the record still has some of them, while one is forgotten.

    Raises:
        Unavailable: the broker is away, or stops in the middle.
    """
    async with aclosing(read_stream(bus, EPISODES, [bus.subjects.stage(EpisodeForgotten.subject)])) as messages:
        entries = [_parse_entry(message) async for message in messages]
    return {entry.episode_id for entry in entries if isinstance(entry, EpisodeForgotten)}


def record_of(message: StoredMessage) -> Record:
    """A message of the record as readers from outside get it.

    Raises:
        InvalidEvent: it cannot be decoded.
    """
    entry = _decode_entry(message)
    return Record(
        id=message.seq,
        subject=entry.subject,
        stored_at=message.stored_at.timestamp(),
        turn_id=entry.envelope.turn_id,
        session_id=entry.envelope.session_id,
        tenant=entry.envelope.tenant,
        user=entry.envelope.user,
        episode_id=entry.episode.episode_id if isinstance(entry, EpisodeRecorded) else entry.episode_id,
        episode=entry.episode if isinstance(entry, EpisodeRecorded) else None,
    )


async def find_entry(bus: Bus, turn_id: str) -> EpisodeRecorded | EpisodeForgotten | None:
    """A turn's episode, or its tombstone when it was forgotten; None without either, or when none can be read.

    Raises:
        Unavailable: the broker is away.
    """
    entry: EpisodeRecorded | EpisodeForgotten | None
    entry, _ = await read_latest(bus, EPISODES, bus.subjects.stage("episode.*", turn_id), _parse_entry)
    return entry


async def find_session_time(bus: Bus, envelope: Envelope) -> float:
    """The time (Unix) of the newest episode of the envelope's session among the last ``TAIL`` entries; 0 without one.

    Raises:
        Unavailable: the broker is away, or stops in the middle.
    """
    end = (await measure_stream(bus, EPISODES)).last_seq
    subjects, newest = [bus.subjects.stage(EpisodeRecorded.subject)], 0.0
    async with aclosing(read_stream(bus, EPISODES, subjects, after=max(0, end - TAIL), until=end)) as messages:
        async for message in messages:
            entry = _parse_entry(message)
            if isinstance(entry, EpisodeRecorded) and _share_session(entry.envelope, envelope):
                newest = max(newest, entry.episode.created_at)
    return newest


def _share_session(a: Envelope, b: Envelope) -> bool:
    return (a.tenant, a.user, a.session_id) == (b.tenant, b.user, b.session_id)


async def read_service(bus: Bus, name: str) -> ServiceStanding | int:
    """How far a service is, also one whose registration has ended.

    Without a registration in the log the sequence of the last message on its subject (0 without one).
    """
    # The marks first: each was written after the registration that says what was delivered until then.
    marks = bus.subjects.stage(EpisodesConsumed.subject, name)
    newest = await read_last(bus, SERVICES, marks)
    subject = bus.subjects.stage(ServiceRegistered.subject, name)
    entry, entry_seq = await read_latest(bus, SERVICES, subject, partial(_parse_registration, name))
    if entry is None:
        return entry_seq
    last = None
    if newest is not None:
        parse = partial(parse_mark, entry)
        last = await search_back(bus, SERVICES, marks, newest, parse, after=entry.marks_after)
    return ServiceStanding(entry=entry, entry_seq=entry_seq, last=last, last_seq=newest.seq if newest else 0)


async def read_services(bus: Bus) -> list[ServiceStanding]:
    """How far each registered service is, sorted by name."""
    subjects = await list_subjects(bus, SERVICES, bus.subjects.stage(ServiceRegistered.subject))
    standings = [await read_service(bus, Subjects.key(subject)) for subject in subjects]
    return [standing for standing in standings if isinstance(standing, ServiceStanding) and not standing.entry.ended]


async def find_acknowledged_floor(bus: Bus, last_seq: int) -> tuple[int, str]:
    """The sequence up to which all have read the record, and the name of the slowest one's durable consumer.

    A registered service has read what the log says, whatever its durable consumer was told; any other durable consumer
    what it has acknowledged. ``last_seq`` is the record's last sequence; who has nothing left to read counts as being
    there. Without readers it is the result, with an empty name.
    """
    services = await read_services(bus)
    floors = [(await _find_service_floor(bus, standing, last_seq), standing.durable) for standing in services]
    registered_names = {standing.durable for standing in services}
    floors += [
        (consumer.acknowledged if consumer.lag else last_seq, consumer.name)
        for consumer in await read_consumers(bus, EPISODES)
        if consumer.durable and consumer.name not in registered_names
    ]
    return min([(last_seq, ""), *floors])


def parse_mark(
    entry: ServiceRegistered, message: StoredMessage, *, delivered: int | None = None
) -> EpisodesConsumed | None:
    """The mark that a message of the log is; None when it marks nothing of this registration.

    Records that were never delivered cannot be marked; ``delivered`` stands for what ``entry`` says of that.
    """
    try:
        mark = decode(EpisodesConsumed, message.data)
    except InvalidEvent as error:
        _pass_over(message, error.message)
        return None
    if mark.registration != entry.registration or mark.name != entry.name:
        return None
    if not mark.ids or mark.ids[-1] > (entry.delivered if delivered is None else delivered):
        _pass_over(message, "it marks records that were not delivered")
        return None
    return mark


def _parse_registration(name: str, message: StoredMessage) -> ServiceRegistered | None:
    try:
        entry = decode(ServiceRegistered, message.data)
    except InvalidEvent as error:
        _pass_over(message, error.message)
        return None
    if entry.name != name or not entry.subjects or not set(entry.subjects) <= _KINDS:
        _pass_over(message, "it registers another service, or reads nothing of the record")
        return None
    return entry


def _pass_over(message: StoredMessage, why: str) -> None:
    metrics.count_degraded("services.log", f"message {message.seq} on {message.subject} is passed over: {why}")


def _parse_entry(message: StoredMessage) -> EpisodeRecorded | EpisodeForgotten | None:
    try:
        return _decode_entry(message)
    except InvalidEvent as error:
        _log.warning("episode unreadable", seq=message.seq, subject=message.subject, error=error.message)
        return None


def _decode_entry(message: StoredMessage) -> EpisodeRecorded | EpisodeForgotten:
    if Subjects.kind(message.subject) == EpisodeForgotten.subject:
        return decode(EpisodeForgotten, message.data)
    return decode(EpisodeRecorded, message.data)


async def _find_service_floor(bus: Bus, standing: ServiceStanding, last_seq: int) -> int:
    """The record before the first one that the service has not consumed."""
    subjects = [bus.subjects.stage(kind) for kind in standing.entry.subjects]
    waiting = [await read_next(bus, EPISODES, standing.passed + 1, subject) for subject in subjects]
    return min([last_seq, *(message.seq - 1 for message in waiting if message is not None)])
