"""What the gate answers: a turn of the tenant's, how one ended, and the tenant's records."""

from contextlib import aclosing
from dataclasses import dataclass

import anyio
import msgspec

from bus import metrics
from bus.connection import Bus
from bus.record import record_of
from bus.stream import StoredMessage, measure_stream, read_stream
from bus.topology import EPISODES
from bus.turn import LiveText, TurnEvents, raise_if_failed
from bus.turns.events import find_end
from schemas.codec import encode
from schemas.envelope import new_turn
from schemas.errors import InvalidEvent, InvalidInput, InvalidStage, Refused, Unavailable
from schemas.events import AnswerReady, InferToken, QueryReceived
from schemas.services import Record
from schemas.tenants import (
    PIECE,
    TenantAnswer,
    TenantEnd,
    TenantPiece,
    TenantRecords,
    TenantRecordsReply,
    TenantTurn,
)

STORED_SECONDS = 5.0
"""Seconds that the broker may take to store an answer that listeners have."""


@dataclass(frozen=True)
class TenantAsker:
    """Who asks: the tenant of the request's subject, and the reply subject, which is the tenant's own."""

    bus: Bus
    tenant: str
    reply: str


async def answer_turn(asker: TenantAsker, request: TenantTurn) -> TenantAnswer:
    """Ask the question as the tenant's, and wait for the answer; pieces of it go out before, if the query streams.

    Raises:
        DeadlineExceeded: nobody said how the turn ended.
        KikiError: a stage gave the turn up, or the broker is away.
    """
    envelope = new_turn(tenant=asker.tenant, user=request.user, session_id=request.session_id, timeout=request.timeout)
    # Nobody listens for this asker on ``svc.awaits``, and the gate has nothing to note of its request.
    query = msgspec.structs.replace(request.query, awaited=False, request="")
    async with asker.bus.follow(envelope, kinds=(InferToken,) if query.stream else ()) as events:
        await asker.bus.publish(QueryReceived(envelope=envelope, query=query))
        answer = await _pass_on(asker, events)
        await _require_stored(asker.bus, answer)
        return _describe(answer)


async def _require_stored(bus: Bus, answer: AnswerReady) -> None:
    """Return once the broker has stored the answer: those who listen get it before, also when it never will be.

    Raises:
        Unavailable: it does not store it, such as for want of room.
    """
    with anyio.move_on_after(STORED_SECONDS):
        while await find_end(bus, answer.envelope.turn_id) is None:
            await anyio.sleep(0.02)
        return
    raise Unavailable("the answer is there and the broker does not store it: ask again.")


async def _pass_on(asker: TenantAsker, events: TurnEvents) -> AnswerReady:
    """Send live text as it comes; the answer, once it is there."""
    live = LiveText()
    while True:
        event = await events.next()
        if isinstance(event, AnswerReady):
            return event
        if isinstance(event, InferToken) and event.kind == "content" and (text := live.add(event)):
            piece = encode(TenantPiece(turn_id=events.envelope.turn_id, text=text))
            await asker.bus.send(asker.reply, piece, headers={PIECE: str(event.index)})


async def find_answer(asker: TenantAsker, request: TenantEnd) -> TenantAnswer:
    """How the turn ended.

    Raises:
        InvalidInput: the tenant has no such turn; another tenant's is none.
        Refused: it still runs.
        KikiError: it failed, with the turn's own error.
    """
    try:
        end = await find_end(asker.bus, request.turn_id)
    except InvalidStage:  # it does not say whose it is
        raise _no_turn(request) from None
    if end is None:
        question = await asker.bus.last(QueryReceived, request.turn_id)
        if question is not None and question.envelope.tenant == asker.tenant:
            raise Refused("the turn still runs: ask again.", code="in_hand")
    if end is None or end.envelope.tenant != asker.tenant:
        raise _no_turn(request)
    raise_if_failed(end)
    assert isinstance(end, AnswerReady)
    return _describe(end)


def _no_turn(request: TenantEnd) -> InvalidInput:
    return InvalidInput(f"there is no turn '{request.turn_id}'.", code="turn_not_found", param="turn_id")


async def read_records(asker: TenantAsker, request: TenantRecords, *, scan: int) -> TenantRecordsReply:
    """The tenant's next records; ``scan`` messages of the record are looked through at most.

    Raises:
        Unavailable: the broker is away.
    """
    records: list[Record] = []
    last = (await measure_stream(asker.bus, EPISODES)).last_seq
    after, until = max(0, request.after), min(last, max(0, request.after) + scan)
    room = asker.bus.max_payload // 2
    if after < until:
        messages = read_stream(asker.bus, EPISODES, asker.bus.subjects.episodes, after=after, until=until)
        async with aclosing(messages):
            async for stored in messages:
                record = _parse_own(asker.tenant, request.user, stored)
                room -= len(stored.data) if record is not None else 0
                if records and (room < 0 or len(records) == request.limit):
                    return TenantRecordsReply(records=tuple(records), after=after, more=True)
                after = stored.seq
                records += [record] if record is not None else []
    return TenantRecordsReply(records=tuple(records), after=max(after, until), more=until < last)


def _parse_own(tenant: str, user: str | None, stored: StoredMessage) -> Record | None:
    """The message as a record, if it is the tenant's, and the user's if one is named."""
    try:
        record = record_of(stored)
    except InvalidEvent as error:
        metrics.count_degraded("tenants.unreadable", f"record {stored.seq} is passed over: {error.message}")
        return None
    is_tenants = record.tenant == tenant and (record.episode is None or record.episode.tenant == tenant)
    return record if is_tenants and user in (None, record.user) else None


def _describe(answer: AnswerReady) -> TenantAnswer:
    return TenantAnswer(
        turn_id=answer.envelope.turn_id,
        session_id=answer.envelope.session_id,
        text=answer.text,
        model=answer.inference.model,
        usage=answer.usage,
    )
