"""One service's place in the record: what comes next, and marking it as consumed.

The log of marks decides what is consumed: a mark is synced to disk before the reply is sent, and then acknowledged at
the service's durable consumer. A process that dies between the two leaves a consumer that is behind the log; the next
call brings it up to the log (:func:`_catch_up`).
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass
from itertools import pairwise

from agents.services.registration import DURABLE, Registration, registration_of
from bus import metrics
from bus.connection import Bus
from bus.consumers import CONFIRM_SECONDS, ConsumerState, Puller, acknowledge, pull, read_consumer
from bus.errors import SequenceConflict, translate_errors
from bus.stream import StoredMessage, append, read_last, read_message, read_stream
from bus.topology import EPISODES, SERVICES
from schemas.codec import decode, encode
from schemas.episode import Episode
from schemas.errors import InvalidEvent, InvalidInput, Refused
from schemas.events import EpisodeForgotten, EpisodeRecorded
from schemas.services import EpisodesConsumed, MarkReply, Record

_CATCH_UP = 256
"""Messages of one pull while a consumer is brought up to the log of marks."""


@dataclass(frozen=True)
class Standing:
    """How far a service is.

    Attributes:
        registration: the service.
        place: the record up to which everything is consumed.
        delivered: the record up to which everything was delivered.
        awaiting_ack: how many delivered records are not acknowledged.
        lag: how many records after ``place`` are not acknowledged.
        last: the latest mark of this registration; None when there is none.
        last_seq: the log's sequence of the latest mark under this name, 0 without one.
    """

    registration: Registration
    place: int
    delivered: int
    awaiting_ack: int
    lag: int
    last: EpisodesConsumed | None
    last_seq: int


def translate_record_errors() -> AbstractContextManager[None]:
    """Raise the broker's errors in the context as "the record cannot be reached"."""
    return translate_errors("the record cannot be reached", advice="ask again")


async def find_service(bus: Bus, name: str) -> tuple[Registration, ConsumerState]:
    """The service of that name, and how far its consumer is.

    Raises:
        InvalidInput: no service is registered under that name.
        Unavailable: the broker is away.
    """
    with translate_record_errors():
        consumer = await read_consumer(bus, EPISODES, f"{DURABLE}{name}")
    service = registration_of(consumer) if consumer else None
    if consumer is None or service is None:
        raise InvalidInput(
            f"no service '{name}' is registered: 'services.register' takes a name.",
            code="service_not_found",
            param="name",
        )
    return service, consumer


async def read_standing(bus: Bus, name: str) -> Standing:
    """How far the service is now; its consumer is brought up to the log of marks first.

    Raises:
        InvalidInput: nobody is registered under that name.
        Unavailable: the broker is away.
    """
    with translate_record_errors():
        service, consumer = await find_service(bus, name)
        last, last_seq = await _read_last_mark(bus, service)
        if last is not None and consumer.acknowledged < last.ids[-1]:
            await _catch_up(bus, service, consumer, last.ids[-1])
            _, consumer = await find_service(bus, name)
        return Standing(
            registration=service,
            place=max(consumer.acknowledged, last.ids[-1] if last else 0),
            delivered=consumer.delivered,
            awaiting_ack=consumer.awaiting_ack,
            lag=consumer.lag,
            last=last,
            last_seq=last_seq,
        )


async def fetch_oldest(bus: Bus, name: str, *, limit: int, seconds: float, most_bytes: int) -> list[Record]:
    """The oldest records that are not consumed, in order: those delivered before, then new ones.

    Waits at most ``seconds`` for a first one.

    Raises:
        InvalidInput: nobody is registered under that name.
        Unavailable: the broker is away.
    """
    standing = await read_standing(bus, name)
    service = standing.registration
    batch = _Batch(limit=limit, most_bytes=most_bytes)
    # The broker would deliver these again only after ack_wait; they are read from the stream instead.
    if standing.awaiting_ack:
        delivered_messages = _read_between(bus, service, standing.place, standing.delivered)
        async with aclosing(delivered_messages):
            async for stored in delivered_messages:
                if record := _parse_record(service, stored):
                    batch.add(record, stored)
                if not batch.room:
                    return batch.records
    with translate_record_errors():
        async with pull(bus, EPISODES, service.durable) as puller:
            await _pull(puller, standing, batch, seconds)
    return batch.records


async def mark(bus: Bus, name: str, ids: Sequence[int], de_id: str) -> MarkReply:
    """Mark the next records as consumed by the run ``de_id``. Marking the same again changes nothing.

    Raises:
        InvalidInput: an id was not delivered, is out of order, or was consumed by another run.
        Refused: another mark of this service came between; ask again.
        Unavailable: the broker is away.
    """
    standing = await read_standing(bus, name)
    last = standing.last
    _refuse_disorder(ids)
    if ids[-1] > standing.delivered:
        raise _delivery_error(next(record_id for record_id in ids if record_id > standing.delivered))
    if ids[0] <= standing.place:
        # A retry of the latest mark by the same run succeeds; anything else would consume a record twice.
        if last is not None and last.de_id == de_id and set(ids) <= set(last.ids):
            return MarkReply(marked=0, place=standing.place)
        raise InvalidInput(
            f"record {ids[0]} was consumed before{f' by {last.de_id}' if last else ''}: "
            f"the place of '{name}' is {standing.place}.",
            code="already_consumed",
            param="ids",
        )
    await _refuse_gap(bus, standing, ids)
    with translate_record_errors():
        await _log_mark(bus, standing, ids, de_id)
        await acknowledge(bus, EPISODES, standing.registration.durable, ids)
    return MarkReply(marked=len(ids), place=ids[-1])


class _Batch:
    """Records of one reply, bounded in number and bytes."""

    def __init__(self, *, limit: int, most_bytes: int) -> None:
        self.records: list[Record] = []
        self._limit = limit
        self._bytes = most_bytes

    @property
    def room(self) -> int:
        """How many more records the reply may hold."""
        return self._limit - len(self.records) if self._bytes > 0 else 0

    def add(self, record: Record, stored: StoredMessage) -> None:
        """Add a record while there is room; one that is left out stays delivered and comes first in the next fetch."""
        if self.room:
            self.records.append(record)
            self._bytes -= len(stored.data)


async def _pull(puller: Puller, standing: Standing, batch: _Batch, seconds: float) -> None:
    """Pull new messages into the batch; those that the service does not want are acknowledged at once."""
    remaining = standing.lag - standing.awaiting_ack
    # The broker counts a message a moment after it has stored it: there may be more than the lag says.
    while batch.room and (remaining > 0 or not batch.records):
        messages = await puller.fetch(batch.room, seconds=CONFIRM_SECONDS if remaining > 0 else max(seconds, 0.01))
        if not messages:
            return
        for message in messages:
            record = _parse_record(standing.registration, message.stored)
            # The broker may also deliver again what was read from the stream above: that is in the batch already.
            is_new = message.stored.seq > standing.delivered
            remaining -= is_new
            if record is None:
                await message.acknowledge()
            elif is_new:
                batch.add(record, message.stored)


def _parse_record(service: Registration, stored: StoredMessage) -> Record | None:
    """The message as a record; None when the service does not want it, or it cannot be decoded."""
    episode: Episode | None = None
    try:
        if stored.subject.split(".")[-2] == "recorded":
            recorded_event = decode(EpisodeRecorded, stored.data)
            subject, envelope, episode = recorded_event.subject, recorded_event.envelope, recorded_event.episode
            episode_id = recorded_event.episode.episode_id
        else:
            forgotten_event = decode(EpisodeForgotten, stored.data)
            subject, envelope, episode_id = (
                forgotten_event.subject,
                forgotten_event.envelope,
                forgotten_event.episode_id,
            )
    except InvalidEvent as error:
        metrics.count_degraded("services.unreadable", f"record {stored.seq} is passed over: {error.message}")
        return None
    record = Record(
        id=stored.seq,
        subject=subject,
        stored_at=stored.stored_at.timestamp(),
        turn_id=envelope.turn_id,
        session_id=envelope.session_id,
        tenant=envelope.tenant,
        user=envelope.user,
        episode_id=episode_id,
        episode=episode,
    )
    return record if service.wants(record) else None


def _read_between(bus: Bus, service: Registration, after: int, until: int) -> AsyncGenerator[StoredMessage, None]:
    return read_stream(bus, EPISODES, service.filters(bus.subjects), after=after, until=until)


def _refuse_disorder(ids: Sequence[int]) -> None:
    for earlier, following in pairwise(ids):
        if following <= earlier:
            raise InvalidInput(
                f"record {following} cannot follow {earlier}: mark records in the order that they were fetched in.",
                code="out_of_order",
                param="ids",
            )


async def _refuse_gap(bus: Bus, standing: Standing, ids: Sequence[int]) -> None:
    """Raise unless ``ids`` are the next records; one that was deleted after its delivery may be marked or left out."""
    service = standing.registration
    async with aclosing(_read_between(bus, service, standing.place, ids[-1])) as messages:
        wanted_by_seq = {stored.seq: _parse_record(service, stored) is not None async for stored in messages}
    marked_ids = set(ids)
    for record_id in ids:
        if wanted_by_seq.get(record_id) is False or (
            record_id not in wanted_by_seq and await _record_exists(bus, record_id)
        ):
            raise _delivery_error(record_id)
    for seq, is_wanted in wanted_by_seq.items():
        if is_wanted and seq not in marked_ids:
            raise InvalidInput(
                f"record {seq} comes before {ids[-1]} and is not marked: no record may be skipped.",
                code="out_of_order",
                param="ids",
            )


def _delivery_error(record_id: int) -> InvalidInput:
    return InvalidInput(
        f"record {record_id} was not delivered to this service: fetch it first.", code="not_delivered", param="ids"
    )


async def _record_exists(bus: Bus, seq: int) -> bool:
    with translate_record_errors():
        return await read_message(bus, EPISODES, seq) is not None


async def _read_last_mark(bus: Bus, service: Registration) -> tuple[EpisodesConsumed | None, int]:
    """The latest mark of this registration, and the log's sequence of the latest mark under its name."""
    subject = bus.subjects.stage(EpisodesConsumed.subject, service.name)
    message = await read_last(bus, SERVICES, subject)
    if message is None:
        return None, 0
    entry = decode(EpisodesConsumed, message.data)
    return (entry if entry.registration == service.id else None), message.seq


async def _log_mark(bus: Bus, standing: Standing, ids: Sequence[int], de_id: str) -> None:
    """Write the mark to the log; raises Refused when another mark came since ``standing`` was read."""
    service = standing.registration
    name = service.name
    entry = EpisodesConsumed(name=name, registration=service.id, ids=tuple(ids), de_id=de_id, at=time.time())
    try:
        await append(bus, bus.subjects.stage(EpisodesConsumed.subject, name), encode(entry), after=standing.last_seq)
    except SequenceConflict as error:
        raise Refused(f"another mark of '{name}' came between; fetch again.", code="in_hand") from error


async def _catch_up(bus: Bus, service: Registration, consumer: ConsumerState, place: int) -> None:
    """Acknowledge what the log says is consumed; what the broker does not know as delivered is fetched first."""
    delivered = consumer.delivered
    async with aclosing(_read_between(bus, service, consumer.acknowledged, min(place, delivered))) as messages:
        ids = [stored.seq async for stored in messages]
    if ids:
        await acknowledge(bus, EPISODES, service.durable, ids)
    if delivered >= place:
        return
    async with pull(bus, EPISODES, service.durable) as puller:
        # An empty batch before ``place`` means that the rest was deleted, so nothing is left to acknowledge.
        while delivered < place and (batch := await puller.fetch(_CATCH_UP, seconds=CONFIRM_SECONDS)):
            for message in batch:
                delivered = message.stored.seq
                if delivered <= place:
                    await message.acknowledge()
    await bus.flush()
