"""A dead letter: what is filed of a message that its consumer gave up. Needs nats-py and :mod:`schemas` only."""

import time
from collections.abc import Awaitable, Callable

import msgspec
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from bus.handling.message import NOBODY
from bus.subjects import MSG_ID
from schemas.codec import decode_envelope, encode
from schemas.status import DeadLetter

HEADER_ROOM = 4096
"""Bytes of a message that its headers may need."""

KEEP_LETTERS = 128
"""Letters of one tenant that are kept of each consumer, unless the settings say otherwise."""


def tenant_of(message: Msg) -> str:
    """Whose the message is; :data:`NOBODY` where that cannot be read."""
    envelope = decode_envelope(message.data)
    return NOBODY if envelope is None else envelope.tenant


async def file_letter(
    js: JetStreamContext,
    subject: str,
    message: Msg,
    *,
    consumer: str,
    reason: str,
    limit: int,
    store: Callable[[bytes], Awaitable[str]],
) -> None:
    """Publish a copy of the message with the reason on ``subject``, and wait until it is stored.

    ``limit`` is how many bytes the broker takes; a payload that is too large for a letter goes to ``store``, which
    returns its sha256.
    """
    meta = message.metadata
    letter = DeadLetter(
        subject=message.subject,
        stream=meta.stream,
        consumer=consumer,
        reason=reason,
        deliveries=meta.num_delivered,
        headers=dict(message.headers or {}),
        payload=message.data,
        failed_at=time.time(),
    )
    data = encode(letter)
    if len(data) + HEADER_ROOM > limit:
        digest = await store(message.data)
        data = encode(msgspec.structs.replace(letter, payload=b"", headers={}, payload_sha256=digest))
    msg_id = f"dead:{consumer}:{meta.stream}:{meta.sequence.stream}:{int(meta.timestamp.timestamp() * 1000)}"
    await js.publish(subject, data, headers={MSG_ID: msg_id})
