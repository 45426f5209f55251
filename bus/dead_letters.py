"""Dead letters: messages that a handler gave up on. They are filed, listed, shown and replayed.

Each tenant has room for its own: the oldest of a tenant that has more go first, and no other one's.
"""

import base64
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from nats.aio.msg import Msg

from bus import failpoints
from bus.connection import Bus
from bus.errors import translate_errors
from bus.handling.letter import file_letter, tenant_of
from bus.metrics import count_degraded
from bus.storage import objects
from bus.stream import StoredMessage, delete_message, list_subjects, measure_stream, purge, read_message, read_next
from bus.subjects import MSG_ID, Subjects
from bus.topology import DEAD, DEAD_MAX_BYTES, EPISODES, JOBS, TURNS
from schemas.base import UNREADABLE
from schemas.codec import decode
from schemas.errors import InvalidEvent, InvalidInput, Unavailable
from schemas.status import DeadLetter

REPLAY_TIMEOUT = 120.0
"""Seconds that a replayed turn gets, because its own deadline has passed."""


TENANT_SHARE = 8
"""A tenant's letters have at most so small a part of the stream's bytes: 1/8."""


@dataclass(frozen=True)
class FiledLetter:
    """A dead letter and its sequence in the DEAD stream.

    ``is_readable``: whether it is what the runtime files. Of anything else ``letter`` holds the bytes and why not.
    """

    seq: int
    letter: DeadLetter
    is_readable: bool = True


async def bury(bus: Bus, message: Msg, *, consumer: str, reason: str) -> None:
    """File a copy of the message with the reason, wait until it is stored, and only then terminate the original."""
    tenant = tenant_of(message)
    subject = bus.subjects.dead(consumer, tenant)
    await file_letter(
        bus.js,
        subject,
        message,
        consumer=consumer,
        reason=reason,
        limit=bus.client.max_payload,
        store=partial(objects.put, bus),
    )
    await failpoints.pass_window("letter.written")
    await message.term()
    try:
        await purge(bus, DEAD, subject=subject, keep=bus.settings.tenant_letters)
        await _purge_bytes(bus, tenant)
    except Unavailable as error:
        count_degraded("dead.purge", f"letters of '{tenant}' beyond its share stay: {error.message}")


async def _purge_bytes(bus: Bus, tenant: str) -> None:
    """Delete the tenant's oldest letters until it has no more than its share of the stream's bytes."""
    limit = DEAD_MAX_BYTES // TENANT_SHARE
    if (await measure_stream(bus, DEAD)).bytes <= limit:
        return
    own_end = bus.subjects.dead("", tenant).rpartition(".")[2]
    sizes: dict[int, int] = {}
    for subject in await list_subjects(bus, DEAD, ">"):
        seq = 1
        while subject.endswith(own_end) and (stored := await read_next(bus, DEAD, seq, subject)) is not None:
            sizes[stored.seq], seq = len(stored.data), stored.seq + 1
    excess = sum(sizes.values()) - limit
    for seq in sorted(sizes):
        if excess <= 0:
            return
        await delete_message(bus, DEAD, seq)
        excess -= sizes[seq]


async def read_payload(bus: Bus, letter: DeadLetter) -> bytes:
    """The letter's payload, from the object store where it was too large for the letter.

    Raises:
        InvalidInput: it is not stored any more.
    """
    if not letter.payload_sha256:
        return letter.payload
    return await objects.get(bus, letter.payload_sha256, param="seq")


async def read_letters(bus: Bus) -> AsyncGenerator[FiledLetter, None]:
    """All dead letters, oldest first, also those that cannot be read."""
    size = await measure_stream(bus, DEAD)
    for seq in range(max(1, size.first_seq), size.last_seq + 1):
        if (stored := await read_message(bus, DEAD, seq)) is not None:
            yield _open_letter(stored)


async def read_letter(bus: Bus, seq: int) -> FiledLetter:
    """One dead letter by its sequence in the DEAD stream.

    Raises:
        InvalidInput: there is none of that sequence.
    """
    stored = await read_message(bus, DEAD, seq)
    if stored is None:
        raise InvalidInput(f"no dead letter {seq}: 'kiki dead ls' lists them.", param="seq")
    return _open_letter(stored)


async def replay(bus: Bus, seq: int) -> str:
    """Publish a dead letter's original message again, with a new deadline, and delete the letter.

    A turn whose message was given up has ended, so the message begins as a turn of its own, which nobody needs to take.

    Returns:
        The subject on which it was published.

    Raises:
        InvalidInput: there is none of that sequence, it cannot be read, or it is an episode: publishing that would
            record it twice.
    """
    entry = await read_letter(bus, seq)
    if not entry.is_readable:
        raise InvalidInput(
            f"dead letter {seq} cannot be read, so nothing can be published: "
            f"'nats stream rmm {bus.subjects.stream(DEAD)} {seq} -f' deletes it.",
            param="seq",
        )
    if entry.letter.stream == bus.subjects.stream(EPISODES):
        raise InvalidInput(
            f"dead letter {seq} is a recorded episode, and the record still holds it: "
            "'kiki memory rebuild' projects it again.",
            param="seq",
        )
    payload = await read_payload(bus, entry.letter)
    headers = {key: value for key, value in entry.letter.headers.items() if key != MSG_ID}
    headers[MSG_ID] = f"replay:{seq}:{int(time.time() * 1000)}"
    subject, turn_id = entry.letter.subject, None
    if entry.letter.stream in map(bus.subjects.stream, (TURNS, JOBS)):
        turn_id = uuid.uuid4().hex
        subject = f"{subject.rpartition('.')[0]}.{turn_id}"
    with translate_errors(f"dead letter {seq} was not published again"):
        await bus.js.publish(subject, _refreshed(payload, turn_id), headers=headers)
    await delete_message(bus, DEAD, seq)
    return subject


def _open_letter(stored: StoredMessage) -> FiledLetter:
    """The letter; one that cannot be read is counted, and stands for itself."""
    try:
        return FiledLetter(stored.seq, decode(DeadLetter, stored.data))
    except InvalidEvent as error:
        count_degraded("dead.unreadable", f"dead letter {stored.seq} on {stored.subject}: {error.message}")
        letter = DeadLetter(
            subject=stored.subject,
            stream=DEAD,
            consumer=Subjects.key(stored.subject).partition("~")[0],
            reason=f"unreadable: {error.message}",
            deliveries=0,
            headers={},
            payload=stored.data,
            failed_at=stored.stored_at.timestamp(),
        )
        return FiledLetter(stored.seq, letter, is_readable=False)


def _refreshed(payload: bytes, turn_id: str | None) -> bytes:
    """The payload with a new deadline, and of the turn ``turn_id`` if one is given; unchanged when it is no event."""
    try:
        body: Any = msgspec.json.decode(payload)
    except UNREADABLE:
        return payload
    if not isinstance(body, dict) or not isinstance(envelope := body.get("envelope"), dict):
        return payload
    envelope["deadline"] = time.time() + REPLAY_TIMEOUT
    if turn_id is not None:
        envelope["turn_id"] = turn_id
        if isinstance(query := body.get("query"), dict):
            query["awaited"] = False
    return msgspec.json.encode(body)


def readable_text(payload: bytes) -> str:
    """A payload for people: its text, or base64 when it has none."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(payload).decode()}"
