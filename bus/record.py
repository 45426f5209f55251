"""The record's episodes from the first to the last: for exports, checks and rebuilding the memory's stores."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog

from bus.connection import Bus
from bus.consumers import read_consumers
from bus.stream import StoredMessage, read_stream
from bus.topology import EPISODES
from schemas.codec import decode
from schemas.episode import Episode
from schemas.errors import InvalidEvent
from schemas.events import EpisodeForgotten, EpisodeRecorded

_log = structlog.get_logger("bus")


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
    tombstones = bus.subjects.stage(EpisodeForgotten.subject, "")
    async with aclosing(read_stream(bus, EPISODES, bus.subjects.episodes, until=until)) as messages:
        async for message in messages:
            entry: EpisodeRecorded | EpisodeForgotten | None
            try:
                if message.subject.startswith(tombstones):
                    entry = decode(EpisodeForgotten, message.data)
                else:
                    entry = decode(EpisodeRecorded, message.data)
            except InvalidEvent as error:
                _log.warning("episode unreadable", seq=message.seq, subject=message.subject, error=error.message)
                entry = None
            yield message, entry


async def find_entry(bus: Bus, turn_id: str) -> EpisodeRecorded | EpisodeForgotten | None:
    """A turn's episode, or its tombstone when it was forgotten; None without either, or when it cannot be read.

    Raises:
        Unavailable: the broker is away.
    """
    try:
        entry = await bus.last_of((EpisodeRecorded, EpisodeForgotten), turn_id, stream=EPISODES)
    except InvalidEvent as error:
        _log.warning("episode unreadable", turn_id=turn_id, error=error.message)
        return None
    assert entry is None or isinstance(entry, EpisodeRecorded | EpisodeForgotten)
    return entry


async def find_acknowledged_floor(bus: Bus, last_seq: int) -> tuple[int, str]:
    """The sequence up to which every durable consumer has acknowledged the record, and the slowest consumer's name.

    ``last_seq`` is the record's last sequence; a consumer that has nothing left to read counts as being there. Without
    durable consumers it is the result, with an empty name.
    """
    floors = [
        (consumer.acknowledged if consumer.lag else last_seq, consumer.name)
        for consumer in await read_consumers(bus, EPISODES)
        if consumer.durable
    ]
    return min([(last_seq, ""), *floors])
