"""One service's place in the record: what comes next, and marking it as consumed.

The log of marks is the truth (synced to disk before anybody is told); the durable consumer follows it. A process that
dies between the two leaves a consumer that is behind its log, and the next call brings it up again.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo, Header
from nats.js.errors import APIError, NotFoundError

from agents.services.registration import DURABLE, Registration, registered
from bus import metrics
from bus.connection import Bus
from bus.stream import Stored, read
from bus.topology import EPISODES, SERVICES
from schemas.codec import decode, encode
from schemas.episode import Episode
from schemas.errors import InvalidEvent, InvalidInput, Refused, Unavailable
from schemas.events import EpisodeForgotten, EpisodeRecorded
from schemas.services import EpisodesConsumed, MarkReply, Record

_CONFIRM = 2.0
"""Seconds that the broker may take to confirm an acknowledgement, or to hand out what it has."""

_CATCH_UP = 256
"""Messages of one pull while a consumer is brought up to its log."""

_WRONG_LAST_SEQUENCE = 10071
"""The broker's error code for a message that came between."""


@dataclass(frozen=True)
class Standing:
    """Where a service is. ``place`` is consumed, ``delivered`` given out; ``last`` is its latest mark."""

    registration: Registration
    place: int
    delivered: int
    in_hand: int
    lag: int
    last: EpisodesConsumed | None
    last_seq: int


@asynccontextmanager
async def _reaching() -> AsyncIterator[None]:
    try:
        yield
    except (TimeoutError, nats.errors.Error, APIError) as error:
        raise Unavailable(f"the record cannot be reached: {error or type(error).__name__}; ask again.") from error


async def find(bus: Bus, name: str) -> tuple[Registration, ConsumerInfo]:
    """The service of that name.

    Raises:
        InvalidInput: nobody is registered under it.
    """
    try:
        info = await bus.js.consumer_info(EPISODES, f"{DURABLE}{name}")
    except NotFoundError:
        info = None
    kept = registered(info) if info else None
    if info is None or kept is None:
        raise InvalidInput(
            f"no service '{name}' is registered: 'services.register' takes a name.",
            code="service_not_found",
            param="name",
        )
    return kept, info


async def standing(bus: Bus, name: str) -> Standing:
    """Where the service is now; its consumer is brought up to its log first.

    Raises:
        InvalidInput: nobody is registered under that name.
        Unavailable: the broker is away.
    """
    async with _reaching():
        kept, info = await find(bus, name)
        last, last_seq = await _last_mark(bus, kept)
        floor = info.ack_floor.stream_seq if info.ack_floor else 0
        if last is not None and floor < last.ids[-1]:
            await _catch_up(bus, kept, info, last.ids[-1])
            info = await bus.js.consumer_info(EPISODES, kept.durable)
            floor = info.ack_floor.stream_seq if info.ack_floor else 0
        in_hand = info.num_ack_pending or 0
        return Standing(
            registration=kept,
            place=max(floor, last.ids[-1] if last else 0),
            delivered=info.delivered.stream_seq if info.delivered else 0,
            in_hand=in_hand,
            lag=in_hand + (info.num_pending or 0),
            last=last,
            last_seq=last_seq,
        )


async def oldest(bus: Bus, name: str, *, limit: int, seconds: float, most_bytes: int) -> list[Record]:
    """The oldest records that are not consumed, in order: those in hand again, then new ones.

    Waits at most ``seconds`` for a first one.

    Raises:
        InvalidInput: nobody is registered under that name.
        Unavailable: the broker is away.
    """
    at = await standing(bus, name)
    kept = at.registration
    found = _Batch(limit=limit, most_bytes=most_bytes)
    if at.in_hand:
        async with aclosing(_between(bus, kept, at.place, at.delivered)) as again:
            async for stored in again:
                if record := _record(kept, stored):
                    found.add(record, stored)
                if not found.room:
                    return found.records
    async with _reaching():
        subscription = await bus.js.pull_subscribe_bind(durable=kept.durable, stream=EPISODES)
        try:
            await _pull(subscription, at, found, seconds)
        finally:
            await subscription.unsubscribe()
    return found.records


async def mark(bus: Bus, name: str, ids: Sequence[int], de_id: str) -> MarkReply:
    """Mark the next records as consumed by the run ``de_id``. Marking the same again changes nothing.

    Raises:
        InvalidInput: an id was not delivered, is out of order, or was consumed by another run.
        Refused: another mark of this service came between; ask again.
        Unavailable: the broker is away.
    """
    at = await standing(bus, name)
    _refuse_disorder(ids)
    if ids[-1] > at.delivered:
        raise _not_delivered(next(one for one in ids if one > at.delivered))
    if ids[0] <= at.place:
        if at.last is not None and at.last.de_id == de_id and set(ids) <= set(at.last.ids):
            return MarkReply(marked=0, place=at.place)
        raise InvalidInput(
            f"record {ids[0]} was consumed before{f' by {at.last.de_id}' if at.last else ''}: "
            f"the place of '{name}' is {at.place}.",
            code="already_consumed",
            param="ids",
        )
    await _refuse_gap(bus, at, ids)
    async with _reaching():
        await _log(bus, at, ids, de_id)
        await _acknowledge(bus, at.registration, ids)
    return MarkReply(marked=len(ids), place=ids[-1])


class _Batch:
    """Records of one reply, bounded in number and bytes."""

    def __init__(self, *, limit: int, most_bytes: int) -> None:
        self.records: list[Record] = []
        self._limit = limit
        self._bytes = most_bytes

    @property
    def room(self) -> int:
        """How many more may come."""
        return self._limit - len(self.records) if self._bytes > 0 else 0

    def add(self, record: Record, stored: Stored) -> None:
        """Take one more while there is room; it stays in hand and comes first the next time when there is none."""
        if self.room:
            self.records.append(record)
            self._bytes -= len(stored.data)


async def _pull(subscription: JetStreamContext.PullSubscription, at: Standing, found: _Batch, seconds: float) -> None:
    """New messages into the batch; what the service does not want is acknowledged at once."""
    left = at.lag - at.in_hand
    while found.room and (left > 0 or (seconds > 0 and not found.records)):
        try:
            messages = await subscription.fetch(
                min(found.room, max(left, 1)), timeout=_CONFIRM if left > 0 else max(seconds, 0.01)
            )
        except (TimeoutError, nats.errors.TimeoutError):
            return
        for message in messages:
            meta = message.metadata
            stored = Stored(meta.sequence.stream, message.subject, meta.timestamp, message.data)
            record = _record(at.registration, stored)
            new = stored.seq > at.delivered
            left -= new
            if record is None:
                await message.ack()
            elif new:
                found.add(record, stored)


def _record(kept: Registration, stored: Stored) -> Record | None:
    """The message as a record, or None when the service does not want it, or nobody can read it."""
    episode: Episode | None = None
    try:
        if stored.subject.split(".")[-2] == "recorded":
            recorded = decode(EpisodeRecorded, stored.data)
            subject, envelope, episode = recorded.subject, recorded.envelope, recorded.episode
            episode_id = recorded.episode.episode_id
        else:
            forgotten = decode(EpisodeForgotten, stored.data)
            subject, envelope, episode_id = forgotten.subject, forgotten.envelope, forgotten.episode_id
    except InvalidEvent as error:
        metrics.degraded("services.unreadable", f"record {stored.seq} is passed over: {error.message}")
        return None
    record = Record(
        id=stored.seq,
        subject=subject,
        stored_at=stored.stored_at.timestamp(),
        turn_id=envelope.turn_id,
        session_id=envelope.session_id,
        tenant=envelope.tenant,
        episode_id=episode_id,
        episode=episode,
    )
    return record if kept.wants(record) else None


def _between(bus: Bus, kept: Registration, after: int, until: int) -> AsyncGenerator[Stored, None]:
    return read(bus, EPISODES, kept.filters(bus.subjects), after=after, until=until)


def _refuse_disorder(ids: Sequence[int]) -> None:
    for one, following in pairwise(ids):
        if following <= one:
            raise InvalidInput(
                f"record {following} cannot follow {one}: mark records in the order that they were fetched in.",
                code="out_of_order",
                param="ids",
            )


async def _refuse_gap(bus: Bus, at: Standing, ids: Sequence[int]) -> None:
    """The ids must be the next records; one that was forgotten since it was delivered counts as marked."""
    async with aclosing(_between(bus, at.registration, at.place, ids[-1])) as waiting:
        there = {stored.seq: _record(at.registration, stored) is not None async for stored in waiting}
    wanted = set(ids)
    for one in ids:
        if there.get(one) is False or (one not in there and await _exists(bus, one)):
            raise _not_delivered(one)
    for seq, mine in there.items():
        if mine and seq not in wanted:
            raise InvalidInput(
                f"record {seq} comes before {ids[-1]} and is not marked: no record may be skipped.",
                code="out_of_order",
                param="ids",
            )


def _not_delivered(one: int) -> InvalidInput:
    return InvalidInput(
        f"record {one} was not delivered to this service: fetch it first.", code="not_delivered", param="ids"
    )


async def _exists(bus: Bus, seq: int) -> bool:
    async with _reaching():
        try:
            await bus.js.get_msg(EPISODES, seq)
        except NotFoundError:
            return False
        return True


async def _last_mark(bus: Bus, kept: Registration) -> tuple[EpisodesConsumed | None, int]:
    """The latest mark of this registration, and the sequence of the latest of its name."""
    subject = bus.subjects.stage(EpisodesConsumed.subject, kept.name)
    try:
        found = await bus.js.get_last_msg(SERVICES, subject)
    except NotFoundError:
        return None, 0
    marked = decode(EpisodesConsumed, found.data or b"")
    return (marked if marked.registration == kept.id else None), int(found.seq or 0)


async def _log(bus: Bus, at: Standing, ids: Sequence[int], de_id: str) -> None:
    """Write the mark, unless another one came since ``at`` was read."""
    name = at.registration.name
    entry = EpisodesConsumed(name=name, registration=at.registration.id, ids=tuple(ids), de_id=de_id, at=time.time())
    headers = {Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(at.last_seq)}
    try:
        await bus.js.publish(bus.subjects.stage(EpisodesConsumed.subject, name), encode(entry), headers=headers)
    except APIError as error:
        if error.err_code == _WRONG_LAST_SEQUENCE:
            raise Refused(f"another mark of '{name}' came between; fetch again.", code="in_hand") from error
        raise


async def _acknowledge(bus: Bus, kept: Registration, ids: Sequence[int]) -> None:
    """Move the consumer. With explicit acknowledgement the broker needs the stream's sequence and no more of the
    reply subject that it made (ADR-15), so any process can acknowledge, not only the one that fetched."""
    *others, last = (f"$JS.ACK.{EPISODES}.{kept.durable}.1.{seq}.1.0.0" for seq in ids)
    for subject in others:
        await bus.client.publish(subject, b"+ACK")
    await bus.client.request(last, b"+ACK", timeout=_CONFIRM)


async def _catch_up(bus: Bus, kept: Registration, info: ConsumerInfo, place: int) -> None:
    """Acknowledge what the log says is consumed, delivering it first where the broker lost even that."""
    delivered = info.delivered.stream_seq if info.delivered else 0
    floor = info.ack_floor.stream_seq if info.ack_floor else 0
    async with aclosing(_between(bus, kept, floor, min(place, delivered))) as waiting:
        ids = [stored.seq async for stored in waiting]
    if ids:
        await _acknowledge(bus, kept, ids)
    if delivered >= place:
        return
    subscription = await bus.js.pull_subscribe_bind(durable=kept.durable, stream=EPISODES)
    try:
        while delivered < place:
            for message in await subscription.fetch(_CATCH_UP, timeout=_CONFIRM):
                delivered = message.metadata.sequence.stream
                if delivered <= place:
                    await message.ack()
    except (TimeoutError, nats.errors.TimeoutError):
        return  # what is missing up to there was forgotten, so nothing is left to acknowledge
    finally:
        await subscription.unsubscribe()
        await bus.client.flush()
