"""The record read from its first episode to its last: for exports, checks and services that replay it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog

from bus.connection import Bus
from bus.reading import read
from bus.topology import EPISODES
from schemas.codec import decode
from schemas.episode import Episode
from schemas.errors import InvalidEvent
from schemas.events import EpisodeRecorded

_log = structlog.get_logger("bus")


async def episodes(bus: Bus, *, tenant: str | None = None) -> AsyncGenerator[Episode, None]:
    """What is recorded by now, oldest first; of one tenant when it is given. What cannot be read is logged and left.

    Raises:
        Unavailable: the broker is away, or stops in the middle.
    """
    async with aclosing(read(bus, EPISODES, [bus.subjects.stage(EpisodeRecorded.subject)])) as stored:
        async for message in stored:
            try:
                episode = decode(EpisodeRecorded, message.data).episode
            except InvalidEvent as error:
                _log.warning("unreadable episode", subject=message.subject, why=error.message)
                continue
            if tenant is None or episode.tenant == tenant:
                yield episode
