"""Reading a stream from somewhere to its present end, in order."""

import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio
import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, NotFoundError

from bus.connection import Bus
from schemas.errors import Unavailable

BATCH = 256
"""Messages of one pull."""

PATIENCE = 5.0
"""Seconds that the broker may take for the next batch."""

INACTIVE = 30.0
"""Seconds after which the broker takes away a consumer that nobody asks."""

STALE = 20.0
"""Seconds between two pulls after which a slow reader takes a new consumer, before the broker takes the old one."""

_LEAVING = 2.0
"""Seconds for taking the consumer away; one that is left behind ends by itself."""


@dataclass(frozen=True)
class StoredMessage:
    """One stored message with its sequence in the stream and the broker's time."""

    seq: int
    subject: str
    stored_at: datetime
    data: bytes


async def read_stream(
    bus: Bus,
    stream: str,
    subjects: Sequence[str],
    *,
    after: int = 0,
    until: int | None = None,
    since: float | None = None,
) -> AsyncGenerator[StoredMessage, None]:
    """What is stored by now on ``subjects``, oldest first; each message once.

    Args:
        bus: where.
        stream: its name.
        subjects: filters.
        after: the sequence before the first one to read.
        until: the last sequence to read; None reads to the end.
        since: Unix time of the first one to read, instead of ``after``.

    Raises:
        Unavailable: the broker is away, or stops in the middle.
    """
    end = until if until is not None else sys.maxsize
    try:
        while True:
            async with _open_reader(bus, stream, _consumer_config(subjects, after, since)) as reader:
                stale = False
                while not stale:
                    pulled_at = time.monotonic()
                    batch = await reader.next_batch(end - after)
                    for message in batch:
                        if message.seq > end:
                            return
                        after = message.seq
                        yield message
                    if not batch:
                        return
                    stale = time.monotonic() - pulled_at >= STALE
            since = None  # the reader was slow: begin again behind what it has
    except (TimeoutError, nats.errors.Error, APIError) as error:
        raise Unavailable(f"{stream} cannot be read: {error or type(error).__name__}.") from error


@dataclass
class _Reader:
    """A consumer of its own, taken away when the reading ends. ``pending`` messages are left to read."""

    subscription: JetStreamContext.PullSubscription
    pending: int

    async def next_batch(self, limit: int) -> list[StoredMessage]:
        """The next messages; none at the end. What is deleted meanwhile is not waited for, what is added comes, too."""
        size = min(BATCH, self.pending, limit)
        if size <= 0:
            return []
        try:
            messages = await self.subscription.fetch(size, timeout=PATIENCE)
        except (TimeoutError, nats.errors.TimeoutError):
            if (await self.subscription.consumer_info()).num_pending:
                raise
            return []
        self.pending = messages[-1].metadata.num_pending
        return [_stored_message(message) for message in messages]


@asynccontextmanager
async def _open_reader(bus: Bus, stream: str, config: ConsumerConfig) -> AsyncIterator[_Reader]:
    info = await bus.js.add_consumer(stream, config)
    subscription = await bus.js.pull_subscribe_bind(consumer=info.name, stream=stream)
    try:
        yield _Reader(subscription, info.num_pending or 0)
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(_LEAVING), suppress(NotFoundError):
            await subscription.unsubscribe()
            await bus.js.delete_consumer(stream, info.name)


def _stored_message(message: Msg) -> StoredMessage:
    meta = message.metadata
    return StoredMessage(meta.sequence.stream, message.subject, meta.timestamp, message.data)


def _consumer_config(subjects: Sequence[str], after: int, since: float | None) -> ConsumerConfig:
    config = ConsumerConfig(
        ack_policy=AckPolicy.NONE,
        filter_subjects=list(subjects),
        inactive_threshold=INACTIVE,
        mem_storage=True,
        num_replicas=1,
    )
    if since is not None:
        config.deliver_policy = DeliverPolicy.BY_START_TIME
        config.opt_start_time = datetime.fromtimestamp(since, UTC)
    elif after > 0:
        config.deliver_policy = DeliverPolicy.BY_START_SEQUENCE
        config.opt_start_seq = after + 1
    else:
        config.deliver_policy = DeliverPolicy.ALL
    return config
