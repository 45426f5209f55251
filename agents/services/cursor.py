"""One service's place in the record: what comes next, and marking it as consumed.

The log SERVICES is the only truth. A fetch reads the record after the service's place, and writes to the log up to
where it gave records out; a mark is synced to disk before the reply is sent. What a durable consumer was told moves
nothing.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import pairwise

from agents.services.registration import Registration, read_entry
from agents.services.registry import find_service, unregister, write_standing
from bus import failpoints, metrics
from bus.connection import Bus
from bus.errors import SequenceConflict, translate_errors
from bus.record import ServiceStanding, record_of
from bus.stream import BATCH, StoredMessage, append, count_after, read_message, read_next, read_stream
from bus.topology import EPISODES
from schemas.codec import encode
from schemas.errors import InvalidEvent, InvalidInput, Refused
from schemas.services import EpisodesConsumed, MarkReply, Record, ServiceInfo

_UNREACHABLE = "the record cannot be reached"


@dataclass
class FetchBatch:
    """Records of one reply, bounded in number and bytes; ``ack_wait`` is the service's."""

    limit: int
    bytes_left: int
    ack_wait: float
    records: list[Record] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        """Whether the reply may hold no further record; the first one has room whatever its size."""
        return len(self.records) >= self.limit or self.bytes_left <= 0

    def add(self, record: Record, stored: StoredMessage) -> None:
        """Add a record."""
        self.records.append(record)
        self.bytes_left -= len(stored.data)


class Cursors:
    """The places of all services in the record.

    In memory is only, by registration, up to where nobody needs to read again: there is nothing that the service wants.
    :meth:`settle` brings that to the log now and then.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._passed: dict[str, int] = {}

    def find_passed(self, standing: ServiceStanding) -> int:
        """The record up to which there is nothing that the service wants and has not consumed."""
        return max(standing.passed, self._passed.get(standing.entry.registration, 0))

    async def describe(self, standing: ServiceStanding) -> ServiceInfo:
        """The public description of a service.

        Raises:
            Unavailable: the broker is away.
        """
        entry, service = standing.entry, read_entry(standing.entry)
        with translate_errors(_UNREACHABLE, advice="ask again"):
            lag = await count_after(
                self._bus, EPISODES, service.filters(self._bus.subjects), self.find_passed(standing)
            )
        return ServiceInfo(
            name=entry.name,
            subjects=entry.subjects,
            filter=entry.filter,
            ack_wait=entry.ack_wait,
            registered_at=entry.registered_at,
            place=standing.place,
            delivered=standing.delivered,
            lag=lag,
            registration=entry.registration,
        )

    async def fetch_oldest(self, name: str, *, limit: int, most_bytes: int) -> FetchBatch:
        """The oldest records that are not consumed, in order: those delivered before, then new ones.

        Raises:
            InvalidInput: nobody is registered under that name.
            Refused: another request for the service came between.
            Unavailable: the broker is away.
        """
        standing = await find_service(self._bus, name)
        service = read_entry(standing.entry)
        batch = FetchBatch(limit=limit, bytes_left=most_bytes, ack_wait=service.ack_wait)
        with translate_errors(_UNREACHABLE, advice="ask again"):
            passed = await self._collect(standing, service, batch)
            if batch.records and batch.records[-1].id > standing.delivered:
                await write_standing(self._bus, standing, passed=passed, delivered=batch.records[-1].id)
        return batch

    async def mark(self, name: str, ids: Sequence[int], de_id: str) -> MarkReply:
        """Mark the next records as consumed by the run ``de_id``. Marking the same again changes nothing.

        Records that are not in the record any more, because they were forgotten, are passed over and named.

        Raises:
            InvalidInput: an id was not delivered, is out of order, or was consumed by another run.
            Refused: another mark of this service came between; ask again.
            Unavailable: the broker is away.
        """
        standing = await find_service(self._bus, name)
        _refuse_disorder(ids)
        with translate_errors(_UNREACHABLE, advice="ask again"):
            if ids[0] <= standing.place:
                return await self._repeat(standing, ids, de_id)
            if ids[-1] > standing.delivered:
                raise _delivery_error(next(record_id for record_id in ids if record_id > standing.delivered))
            forgotten = await self._find_forgotten(standing, ids)
            left_ids = tuple(record_id for record_id in ids if record_id not in forgotten)
            if left_ids:
                await self._log_mark(standing, left_ids, de_id)
                await failpoints.pass_window("mark.logged")
        place = left_ids[-1] if left_ids else standing.place
        return MarkReply(marked=len(left_ids), place=place, forgotten=forgotten)

    async def end(self, name: str) -> ServiceInfo:
        """End a service's registration; returns how far it was.

        Raises:
            InvalidInput: nobody is registered under that name.
            Refused: another request for the service came between.
            Unavailable: the broker is away.
        """
        standing = await find_service(self._bus, name)
        info = await self.describe(standing)
        await unregister(self._bus, standing)
        self._passed.pop(standing.entry.registration, None)
        return info

    async def settle(self, standing: ServiceStanding) -> ServiceStanding:
        """Write the registration to the log anew, with what is only in memory.

        Raises:
            Refused: another request for the service came between, and has done it.
            Unavailable: the broker is away.
        """
        return await write_standing(self._bus, standing, passed=self.find_passed(standing))

    async def read_age(self, standing: ServiceStanding) -> float:
        """The age in seconds of the oldest record that the service has not consumed; 0 when there is none."""
        oldest = await self._find_next(read_entry(standing.entry), self.find_passed(standing))
        return 0.0 if oldest is None else max(0.0, time.time() - oldest.stored_at.timestamp())

    async def _collect(self, standing: ServiceStanding, service: Registration, batch: FetchBatch) -> int:
        """Add records to the batch; returns up to where there is nothing before them that the service wants."""
        passed = self.find_passed(standing)
        if await self._find_next(service, passed) is None:
            return passed
        size = min(BATCH, batch.limit) if service.reads_everything else BATCH
        messages = read_stream(self._bus, EPISODES, service.filters(self._bus.subjects), after=passed, batch=size)
        async with aclosing(messages):
            async for stored in messages:
                if (record := parse_record(service, stored)) is not None:
                    batch.add(record, stored)
                elif not batch.records:
                    passed = stored.seq
                if batch.is_full:
                    break
        self._passed[service.id] = passed
        return passed

    async def _find_next(self, service: Registration, seq: int) -> StoredMessage | None:
        """The first message after ``seq`` on the service's subjects; None when there is none."""
        messages = [
            await read_next(self._bus, EPISODES, seq + 1, subject) for subject in service.filters(self._bus.subjects)
        ]
        return min(
            (message for message in messages if message is not None), key=lambda stored: stored.seq, default=None
        )

    async def _repeat(self, standing: ServiceStanding, ids: Sequence[int], de_id: str) -> MarkReply:
        """The reply to a mark of what is consumed: a retry of the latest mark by its run, or a refusal."""
        last = standing.last
        if last is not None and last.de_id == de_id:
            missing = [record_id for record_id in ids if record_id not in last.ids]
            forgotten = tuple([record_id for record_id in missing if not await self._is_recorded(record_id)])
            if len(forgotten) == len(missing) and ids[-1] <= standing.delivered:
                return MarkReply(marked=0, place=standing.place, forgotten=forgotten)
        raise InvalidInput(
            f"record {ids[0]} was consumed before{f' by {last.de_id}' if last else ''}: "
            f"the place of '{standing.entry.name}' is {standing.place}.",
            code="already_consumed",
            param="ids",
        )

    async def _find_forgotten(self, standing: ServiceStanding, ids: Sequence[int]) -> tuple[int, ...]:
        """Those of ``ids`` that the record does not hold any more; the others must be the next ones.

        Raises:
            InvalidInput: one of them is none that the service gets, or one between them is left out.
        """
        service, given_ids = read_entry(standing.entry), set(ids)
        wanted_by_seq: dict[int, bool] = {}
        async with aclosing(self._read_between(service, standing.passed, ids[-1])) as messages:
            async for stored in messages:
                wanted_by_seq[stored.seq] = parse_record(service, stored) is not None
        forgotten = []
        for record_id in ids:
            if record_id not in wanted_by_seq and not await self._is_recorded(record_id):
                forgotten.append(record_id)
            elif not wanted_by_seq.get(record_id):
                raise _delivery_error(record_id)
        for seq, is_wanted in wanted_by_seq.items():
            if is_wanted and seq not in given_ids:
                raise InvalidInput(
                    f"record {seq} comes before {ids[-1]} and is not marked: no record may be skipped.",
                    code="out_of_order",
                    param="ids",
                )
        return tuple(forgotten)

    def _read_between(self, service: Registration, after: int, until: int) -> AsyncGenerator[StoredMessage, None]:
        return read_stream(self._bus, EPISODES, service.filters(self._bus.subjects), after=after, until=until)

    async def _is_recorded(self, seq: int) -> bool:
        return await read_message(self._bus, EPISODES, seq) is not None

    async def _log_mark(self, standing: ServiceStanding, ids: tuple[int, ...], de_id: str) -> None:
        """Write the mark to the log; raises Refused when another mark came since ``standing`` was read."""
        name = standing.entry.name
        mark = EpisodesConsumed(
            name=name, registration=standing.entry.registration, ids=ids, de_id=de_id, at=time.time()
        )
        subject = self._bus.subjects.stage(EpisodesConsumed.subject, name)
        try:
            await append(self._bus, subject, encode(mark), after=standing.last_seq)
        except SequenceConflict as error:
            raise Refused(f"another mark of '{name}' came between: mark again.", code="in_hand") from error


def parse_record(service: Registration, stored: StoredMessage) -> Record | None:
    """The message as a record; None when the service does not want it, or it cannot be decoded."""
    try:
        record = record_of(stored)
    except InvalidEvent as error:
        metrics.count_degraded("services.unreadable", f"record {stored.seq} is passed over: {error.message}")
        return None
    return record if service.wants(record) else None


def _refuse_disorder(ids: Sequence[int]) -> None:
    for earlier, following in pairwise(ids):
        if following <= earlier:
            raise InvalidInput(
                f"record {following} cannot follow {earlier}: mark records in the order that they were fetched in.",
                code="out_of_order",
                param="ids",
            )


def _delivery_error(record_id: int) -> InvalidInput:
    return InvalidInput(
        f"record {record_id} was not delivered to this service: fetch it first.", code="not_delivered", param="ids"
    )
