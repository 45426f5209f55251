"""Reading a part of the record in order, as fast as possible or at the pace at which it was stored."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import anyio
import msgspec
from msgspec import Struct

from bus import metrics
from bus.connection import Bus
from bus.stream import StoredMessage, read_stream
from bus.subjects import Subjects
from bus.topology import EPISODES
from schemas.base import UNREADABLE
from schemas.services import REPLAY_SEQ, REPLAY_SUBJECT, REPLAY_TIME, Replayed, Selection, Speed
from schemas.upcast import earlier_user


class _Owner(Struct, frozen=True):
    tenant: str
    session_id: str
    user: str | None = None


class _Head(Struct, frozen=True):
    """The part of an event that a selection needs; msgspec skips the rest."""

    envelope: _Owner


_head_decoder = msgspec.json.Decoder(_Head)


async def read_selection(bus: Bus, selection: Selection) -> AsyncGenerator[StoredMessage, None]:
    """The messages of the record that are selected, oldest first.

    Raises:
        Unavailable: the broker is away, or stops in the middle.
    """
    after = (selection.from_seq or 1) - 1
    async with aclosing(
        read_stream(bus, EPISODES, bus.subjects.episodes, after=after, since=selection.since)
    ) as messages:
        async for stored in messages:
            if selection.until is not None and stored.stored_at.timestamp() > selection.until:
                return
            if fits(selection, stored):
                yield stored


async def pace(messages: AsyncGenerator[StoredMessage, None], speed: Speed) -> AsyncGenerator[StoredMessage, None]:
    """The same messages; at the speed "recorded" with the pauses that were between them when they were stored."""
    offset: float | None = None  # from the time at which a message was stored to the time at which it is given
    async with aclosing(messages):
        async for stored in messages:
            if speed == "recorded":
                stamp = stored.stored_at.timestamp()
                offset = time.time() - stamp if offset is None else offset
                await anyio.sleep(max(0.0, stamp + offset - time.time()))
            yield stored


def replay_headers(stored: StoredMessage) -> dict[str, str]:
    """The headers of a replayed message: its sequence, its ``noun.verb`` and when it was stored."""
    return {
        REPLAY_SEQ: str(stored.seq),
        REPLAY_SUBJECT: Subjects.kind(stored.subject),
        REPLAY_TIME: f"{stored.stored_at.timestamp():.6f}",
    }


def encode_line(stored: StoredMessage) -> bytes:
    """A stored message as a line of JSONL, with the line end."""
    entry = Replayed(
        seq=stored.seq,
        stored_at=stored.stored_at.timestamp(),
        subject=Subjects.kind(stored.subject),
        event=msgspec.Raw(stored.data),
    )
    return msgspec.json.encode(entry) + b"\n"


def fits(selection: Selection, stored: StoredMessage) -> bool:
    """Whether the message is selected. One that cannot be decoded belongs to no tenant and no session."""
    stamp = stored.stored_at.timestamp()
    if stored.seq < (selection.from_seq or 1) or not (selection.since or 0.0) <= stamp <= (selection.until or stamp):
        return False
    if selection.tenant is None and selection.user is None and selection.session_id is None:
        return True
    try:
        owner = _head_decoder.decode(stored.data).envelope
    except UNREADABLE as error:
        metrics.count_degraded("replay.unreadable", f"record {stored.seq} is passed over: {error}")
        return False
    user = earlier_user(owner.tenant) if owner.user is None else owner.user
    return (
        selection.tenant in (None, owner.tenant)
        and selection.user in (None, user)
        and selection.session_id in (None, owner.session_id)
    )
