"""A part of the record, in order, as fast as it can be read or as it was lived."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import anyio
import msgspec
from msgspec import Struct

from bus import metrics
from bus.connection import Bus
from bus.stream import Stored, read
from bus.topology import EPISODES
from schemas.services import REPLAY_SEQ, REPLAY_SUBJECT, REPLAY_TIME, Replayed, Selection, Speed


class _Owner(Struct, frozen=True):
    tenant: str
    session_id: str


class _Head(Struct, frozen=True):
    """As much of an event as a selection asks for; msgspec passes over the rest."""

    envelope: _Owner


_head = msgspec.json.Decoder(_Head)


async def selected(bus: Bus, chosen: Selection) -> AsyncGenerator[Stored, None]:
    """The messages of the record that are chosen, oldest first.

    Raises:
        Unavailable: the broker is away, or stops in the middle.
    """
    after = (chosen.from_seq or 1) - 1
    async with aclosing(read(bus, EPISODES, bus.subjects.episodes, after=after, since=chosen.since)) as messages:
        async for stored in messages:
            if chosen.until is not None and stored.stored_at.timestamp() > chosen.until:
                return
            if fits(chosen, stored):
                yield stored


async def paced(messages: AsyncGenerator[Stored, None], speed: Speed) -> AsyncGenerator[Stored, None]:
    """The same messages; at recorded speed each after the pause that there was before it."""
    began: float | None = None
    async with aclosing(messages):
        async for stored in messages:
            if speed == "recorded":
                stamp = stored.stored_at.timestamp()
                began = time.time() - stamp if began is None else began
                await anyio.sleep(max(0.0, stamp + began - time.time()))
            yield stored


def headers(stored: Stored) -> dict[str, str]:
    """What a replayed message tells of its place, beside its bytes."""
    return {
        REPLAY_SEQ: str(stored.seq),
        REPLAY_SUBJECT: _kind(stored),
        REPLAY_TIME: f"{stored.stored_at.timestamp():.6f}",
    }


def line(stored: Stored) -> bytes:
    """A line of JSONL, with its end."""
    said = Replayed(
        seq=stored.seq, stored_at=stored.stored_at.timestamp(), subject=_kind(stored), event=msgspec.Raw(stored.data)
    )
    return msgspec.json.encode(said) + b"\n"


def _kind(stored: Stored) -> str:
    return ".".join(stored.subject.split(".")[-3:-1])


def fits(chosen: Selection, stored: Stored) -> bool:
    """Whether the message is chosen. What nobody can read belongs to nobody."""
    stamp = stored.stored_at.timestamp()
    if stored.seq < (chosen.from_seq or 1) or not (chosen.since or 0.0) <= stamp <= (chosen.until or stamp):
        return False
    if chosen.tenant is None and chosen.session_id is None:
        return True
    try:
        owner = _head.decode(stored.data).envelope
    except msgspec.DecodeError as error:
        metrics.degraded("replay.unreadable", f"record {stored.seq} is passed over: {error}")
        return False
    return chosen.tenant in (None, owner.tenant) and chosen.session_id in (None, owner.session_id)
