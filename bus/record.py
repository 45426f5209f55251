"""The record read from its first episode to its last: for exports, checks and services that replay it."""

from collections.abc import AsyncGenerator

import nats.errors
import structlog
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from bus.connection import Bus
from bus.topology import EPISODES
from schemas.codec import decode
from schemas.episode import Episode
from schemas.errors import InvalidEvent, Unavailable
from schemas.events import EpisodeRecorded

BATCH = 256
_log = structlog.get_logger("bus")


async def episodes(bus: Bus, *, tenant: str | None = None) -> AsyncGenerator[Episode, None]:
    """What is recorded by now, oldest first; of one tenant when it is given. What cannot be read is logged and left.

    Raises:
        Unavailable: the broker is away, or stops in the middle.
    """
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.NONE,
        filter_subject=bus.subjects.stage(EpisodeRecorded.subject),
        inactive_threshold=30.0,
        mem_storage=True,
    )
    try:
        info = await bus.js.add_consumer(EPISODES, config)
        left = info.num_pending or 0
        subscription = await bus.js.pull_subscribe_bind(consumer=info.name, stream=EPISODES)
        try:
            while left > 0:
                for message in await subscription.fetch(min(BATCH, left), timeout=5.0):
                    left -= 1
                    try:
                        episode = decode(EpisodeRecorded, message.data).episode
                    except InvalidEvent as error:
                        _log.warning("unreadable episode", subject=message.subject, why=error.message)
                        continue
                    if tenant is None or episode.tenant == tenant:
                        yield episode
        finally:
            await subscription.unsubscribe()
    except (TimeoutError, nats.errors.Error) as error:
        raise Unavailable(f"the record cannot be read: {error or type(error).__name__}.") from error
