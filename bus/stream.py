"""A stream: reading it in order up to its present end, reading and writing single messages, and its size.

Every function raises :class:`bus.errors.BrokerUnavailable` when the broker is away.
"""

import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import anyio
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, Header, RawStreamMsg

from bus import topology
from bus.connection import Bus
from bus.errors import BROKER_ERRORS, NOT_FOUND, WRONG_LAST_SEQUENCE, SequenceConflict, code_of, translate_errors
from bus.reconciliation import probe_stream

T = TypeVar("T")

BATCH = 256
"""Messages of one pull."""

PATIENCE = 5.0
"""Seconds that the broker may take for the next batch."""

INACTIVE = 30.0
"""Seconds without a pull after which the broker deletes a reader's consumer."""

STALE = 20.0
"""Seconds between two pulls after which a slow reader makes a new consumer, before the broker deletes the old one."""

_CLEANUP_SECONDS = 2.0
"""Seconds for deleting the consumer at the end; the broker deletes one that is left behind after :data:`INACTIVE`."""


@dataclass(frozen=True)
class StoredMessage:
    """One stored message with its sequence in the stream and the time at which the broker stored it."""

    seq: int
    subject: str
    stored_at: datetime
    data: bytes


@dataclass(frozen=True)
class StreamSize:
    """How much a stream holds, in messages and bytes, and the sequences of its first and last message."""

    messages: int
    bytes: int
    first_seq: int
    last_seq: int


async def read_stream(
    bus: Bus,
    stream: str,
    subjects: Sequence[str],
    *,
    after: int = 0,
    until: int | None = None,
    since: float | None = None,
    batch: int = BATCH,
) -> AsyncGenerator[StoredMessage, None]:
    """The messages that are stored by now on ``subjects``, oldest first, each once.

    Args:
        bus: the connection to the broker.
        stream: the stream's name.
        subjects: subjects of the messages to read; they may hold wildcards.
        after: the sequence before the first one to read.
        until: the last sequence to read; None reads to the end.
        since: Unix time of the first one to read, instead of ``after``.
        batch: messages of one pull; fewer where the reader may leave after a few of them.

    Raises:
        Unavailable: the broker is away, or stops in the middle.
    """
    end = until if until is not None else sys.maxsize
    with translate_errors(f"{stream} cannot be read"):
        while True:
            async with _open_reader(bus, stream, _consumer_config(subjects, after, since)) as reader:
                stale = False
                while not stale:
                    pulled_at = time.monotonic()
                    messages = await reader.next_batch(min(batch, end - after))
                    for message in messages:
                        if message.seq > end:
                            return
                        after = message.seq
                        yield message
                    if not messages:
                        return
                    stale = time.monotonic() - pulled_at >= STALE
            since = None  # the reader was slow: go on with a new consumer after the last message that was read


async def measure_stream(bus: Bus, stream: str) -> StreamSize:
    """How much the stream holds now."""
    with translate_errors(f"{stream} cannot be read"):
        return _stream_size((await bus.js.stream_info(bus.subjects.stream(stream))).state)


async def measure_streams(bus: Bus) -> dict[str, StreamSize]:
    """How much each stream of this runtime holds now, by its name."""
    with translate_errors("the streams cannot be read"):
        sizes = {str(info.config.name): _stream_size(info.state) for info in await bus.js.streams_info()}
    return {name: sizes[real] for name in topology.STREAMS if (real := bus.subjects.stream(name)) in sizes}


async def read_message(bus: Bus, stream: str, seq: int) -> StoredMessage | None:
    """The message of that sequence; None when it was dropped or deleted."""
    return await _read_raw(bus, stream, seq=seq)


async def read_next(bus: Bus, stream: str, seq: int, subject: str, *, direct: bool = False) -> StoredMessage | None:
    """The first message on ``subject`` from that sequence on; None when there is none.

    With ``direct`` the answer is quicker, and may be a replica's that does not have the newest messages yet.
    """
    return await _read_raw(bus, stream, seq=seq, subject=subject, next=True, direct=direct)


async def read_last(bus: Bus, stream: str, subject: str) -> StoredMessage | None:
    """The last message on ``subject``; None when there is none."""
    return await _read_raw(bus, stream, subject=subject)


async def read_latest(
    bus: Bus, stream: str, subject: str, parse: Callable[[StoredMessage], T | None]
) -> tuple[T | None, int]:
    """The latest message on ``subject`` that ``parse`` makes something of, and the sequence of the subject's last one.

    (None, 0) when there is no message.
    """
    newest = await read_last(bus, stream, subject)
    return (None, 0) if newest is None else (await search_back(bus, stream, subject, newest, parse), newest.seq)


async def search_back(
    bus: Bus,
    stream: str,
    subject: str,
    newest: StoredMessage,
    parse: Callable[[StoredMessage], T | None],
    *,
    after: int = 0,
) -> T | None:
    """What ``parse`` makes of the message, or else of the latest one before it on ``subject``; None without any.

    A message that nobody can read, or that is a stranger's, must not hide the one before it. The stream is read in
    parts, each longer than the one after it, and not up to the sequence ``after``.
    """
    if newest.seq <= after:
        return None
    if (value := parse(newest)) is not None:
        return value
    reach, until = BATCH, newest.seq - 1
    while until > after:
        start, latest = max(after, until - reach), None
        async with aclosing(read_stream(bus, stream, [subject], after=start, until=until)) as messages:
            async for message in messages:
                value = parse(message)
                latest = latest if value is None else value
        if latest is not None:
            return latest
        until, reach = start, reach * 4
    return None


async def list_subjects(bus: Bus, stream: str, pattern: str) -> list[str]:
    """The subjects that match ``pattern`` and on which the stream holds messages, sorted."""
    with translate_errors(f"{stream} cannot be read"):
        return sorted(
            (await bus.js.stream_info(bus.subjects.stream(stream), subjects_filter=pattern)).state.subjects or {}
        )


async def count_after(bus: Bus, stream: str, subjects: Sequence[str], seq: int) -> int:
    """How many messages on ``subjects`` the stream holds after that sequence."""
    with translate_errors(f"{stream} cannot be read"):
        info = await probe_stream(
            bus.js,
            bus.subjects.stream(stream),
            filter_subjects=list(subjects),
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=seq + 1,
        )
    return info.num_pending or 0


async def find_sequences(bus: Bus, stream: str, subject: str) -> AsyncIterator[int]:
    """The sequences of the messages on ``subject``, of which there are few, oldest first."""
    seq = 1
    while (message := await read_next(bus, stream, seq, subject)) is not None:
        yield message.seq
        seq = message.seq + 1


async def append(bus: Bus, subject: str, data: bytes, *, after: int | None = None) -> int:
    """Store bytes that are no event of a turn in the stream of ``subject``; returns their sequence.

    With ``after``, the bytes are stored only if the subject's last message has that sequence (0: it has no message).

    Raises:
        SequenceConflict: the subject's last message is another one.
    """
    headers = None if after is None else {Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(after)}
    with translate_errors(f"{subject} was not stored"):
        try:
            return int((await bus.js.publish(subject, data, headers=headers)).seq)
        except BROKER_ERRORS as error:
            if code_of(error) == WRONG_LAST_SEQUENCE:
                raise SequenceConflict(f"another message came to {subject}: read it first.") from error
            raise


async def delete_message(bus: Bus, stream: str, seq: int) -> None:
    """Delete one message; the broker overwrites its bytes."""
    with translate_errors(f"message {seq} of {stream} was not deleted"):
        await bus.js.delete_msg(bus.subjects.stream(stream), seq)


async def purge(
    bus: Bus, stream: str, *, subject: str | None = None, before: int | None = None, keep: int | None = None
) -> None:
    """Drop messages: only those on ``subject``, those before the sequence ``before`` and all but the newest ``keep``,
    where these are given."""
    with translate_errors(f"{stream} was not purged"):
        await bus.js.purge_stream(bus.subjects.stream(stream), seq=before, subject=subject, keep=keep)


async def find_last_before(bus: Bus, stream: str, moment: float) -> int:
    """The sequence of the last message that was stored before a Unix time; 0 when there is none."""
    start = datetime.fromtimestamp(moment, UTC)
    with translate_errors(f"{stream} cannot be read"):
        info = await probe_stream(
            bus.js, bus.subjects.stream(stream), deliver_policy=DeliverPolicy.BY_START_TIME, opt_start_time=start
        )
    return int(info.delivered.stream_seq) if info.delivered else 0


async def _read_raw(bus: Bus, stream: str, **which: Any) -> StoredMessage | None:
    with translate_errors(f"{stream} cannot be read"):
        try:
            raw: RawStreamMsg = await bus.js.get_msg(bus.subjects.stream(stream), **which)
        except NOT_FOUND:
            return None
    return StoredMessage(int(raw.seq), str(raw.subject), raw.time, raw.data or b"")


def _stream_size(state: Any) -> StreamSize:
    return StreamSize(state.messages, state.bytes, state.first_seq, state.last_seq)


@dataclass
class _Reader:
    """A consumer for one reading, deleted at its end. ``pending`` is how many messages are left to read."""

    subscription: JetStreamContext.PullSubscription
    pending: int

    async def next_batch(self, limit: int) -> list[StoredMessage]:
        """The next messages; an empty list at the end.

        Messages that are deleted meanwhile are not waited for; messages that are added meanwhile are read, too.
        """
        size = min(BATCH, self.pending, limit)
        if size <= 0:
            return []
        try:
            messages = await self.subscription.fetch(size, timeout=PATIENCE)
        except TimeoutError:
            if (await self.subscription.consumer_info()).num_pending:
                raise
            return []
        self.pending = messages[-1].metadata.num_pending
        return [stored_message(message) for message in messages]


@asynccontextmanager
async def _open_reader(bus: Bus, stream: str, config: ConsumerConfig) -> AsyncIterator[_Reader]:
    name = bus.subjects.stream(stream)
    info = await bus.js.add_consumer(name, config)
    subscription = await bus.js.pull_subscribe_bind(consumer=info.name, stream=name)
    try:
        yield _Reader(subscription, info.num_pending or 0)
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(_CLEANUP_SECONDS), suppress(*BROKER_ERRORS):
            await subscription.unsubscribe()
            await bus.js.delete_consumer(name, info.name)


def stored_message(message: Msg) -> StoredMessage:
    """A delivered message as the stream holds it."""
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
