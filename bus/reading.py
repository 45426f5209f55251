"""Reading a stream from somewhere to its present end, in order."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio
import nats.errors
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError

from bus.connection import Bus
from schemas.errors import Unavailable

BATCH = 256
"""Messages of one pull."""

PATIENCE = 5.0
"""Seconds that the broker may take for the next batch."""

_LEAVING = 2.0
"""Seconds for taking the consumer away; one that is left behind ends by itself after half a minute."""


@dataclass(frozen=True)
class Stored:
    """One stored message with its sequence in the stream and the broker's time."""

    seq: int
    subject: str
    stored_at: datetime
    data: bytes


async def read(
    bus: Bus,
    stream: str,
    subjects: Sequence[str],
    *,
    after: int = 0,
    until: int | None = None,
    since: float | None = None,
) -> AsyncGenerator[Stored, None]:
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
    try:
        info = await bus.js.add_consumer(stream, _from(subjects, after, since))
        subscription = await bus.js.pull_subscribe_bind(consumer=info.name, stream=stream)
        try:
            async for stored in _pulled(subscription, info.num_pending or 0, after=after, until=until):
                yield stored
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(_LEAVING):
                await subscription.unsubscribe()
                await bus.js.delete_consumer(stream, info.name)
    except (TimeoutError, nats.errors.Error, APIError) as error:
        raise Unavailable(f"{stream} cannot be read: {error or type(error).__name__}.") from error


async def _pulled(
    subscription: JetStreamContext.PullSubscription, left: int, *, after: int, until: int | None
) -> AsyncGenerator[Stored, None]:
    """Everything that is pending. What is deleted meanwhile is not waited for, what is added comes, too."""
    while left > 0 and (until is None or after < until):
        wanted = min(BATCH, left) if until is None else min(BATCH, left, until - after)
        try:
            messages = await subscription.fetch(wanted, timeout=PATIENCE)
        except (TimeoutError, nats.errors.TimeoutError):
            if (await subscription.consumer_info()).num_pending:
                raise
            return
        for message in messages:
            meta = message.metadata
            left, after = meta.num_pending, meta.sequence.stream
            if until is not None and after > until:
                return
            yield Stored(after, message.subject, meta.timestamp, message.data)


def _from(subjects: Sequence[str], after: int, since: float | None) -> ConsumerConfig:
    config = ConsumerConfig(
        ack_policy=AckPolicy.NONE,
        filter_subjects=list(subjects),
        inactive_threshold=30.0,
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
