"""Requests to services: to one instance, or to all of them. Needs nats-py and :mod:`schemas` only."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg

from bus.errors import BROKER_ERRORS, translate_errors
from schemas.calls import Service
from schemas.codec import decode, encode
from schemas.errors import RETRYABLE_CODES, InvalidEvent, KikiError, StageFailed, Unavailable
from schemas.status import ServiceError

Q = TypeVar("Q", bound=msgspec.Struct | None)
R = TypeVar("R", bound=msgspec.Struct)

WINDOW_SECONDS, PATIENCE_SECONDS = 0.25, 1.0
"""Seconds for which the answers of all instances are gathered: at least, and at most."""


async def request(
    client: Client,
    subject: str,
    service: Service[Q, R],
    body: Q,
    *,
    timeout: float,
    headers: Mapping[str, str] | None = None,
) -> R:
    """Send a request of the contract to ``subject``, and wait at most ``timeout`` seconds for the reply.

    Raises:
        Unavailable: nobody serves the subject or no answer came in time.
        KikiError: the service's refusal, with its code and field.
    """
    try:
        message = await client.request(
            subject, encode_request(body), timeout=timeout, headers=dict(headers or {}) or None
        )
    except BROKER_ERRORS as error:
        raise no_answer(service.verb, type(error).__name__) from error
    return read_reply(message, service.reply)


def read_reply(message: Msg, reply: type[R]) -> R:
    """A service's reply.

    Raises:
        KikiError: it is the service's refusal, with its code and field.
    """
    if (message.headers or {}).get("Nats-Service-Error"):
        refusal = decode(ServiceError, message.data)
        is_retryable = refusal.retryable or refusal.code in RETRYABLE_CODES  # agents of before did not say so
        raise KikiError(refusal.message, code=refusal.code, param=refusal.param, retryable=is_retryable)
    return decode(reply, message.data)


def encode_request(body: msgspec.Struct | None) -> bytes:
    """A request as it is sent; empty for a service that needs no more than its verb.

    Raises:
        InvalidEvent: the service would refuse it, as it would say itself.
    """
    try:
        return encode(body) if body is not None else b""
    except StageFailed as error:
        raise InvalidEvent(error.message, param=error.param) from error


def no_answer(verb: str, reason: str) -> Unavailable:
    """The error of a request that nobody answered."""
    return Unavailable(f"no answer from service '{verb}' ({reason}); is its agent up?")


async def gather(
    client: Client,
    subject: str,
    reply: type[R],
    *,
    enough: Callable[[Sequence[R]], bool],
    note: Callable[[str], None],
) -> list[R]:
    """The answers to an empty request, one from each instance that listens to ``subject``.

    Waits for :data:`WINDOW_SECONDS`; as long as ``enough`` says that the answers are too few, it waits up to
    :data:`PATIENCE_SECONDS`, because an instance on a busy machine may be slow to answer. ``note`` is told of answers
    that cannot be read; they are passed over.

    Raises:
        BrokerUnavailable: the broker is away.
    """
    inbox = client.new_inbox()
    replies: list[R] = []
    now = asyncio.get_running_loop().time
    with translate_errors(f"nobody could be asked at {subject}"):
        subscription = await client.subscribe(inbox)
        try:
            await client.publish(subject, b"", reply=inbox)
            sent_at = now()
            while (remaining := sent_at + (WINDOW_SECONDS if enough(replies) else PATIENCE_SECONDS) - now()) > 0:
                with suppress(TimeoutError):
                    message = await subscription.next_msg(timeout=remaining)
                    if not (message.headers or {}).get("Status"):
                        try:
                            replies.append(decode(reply, message.data))
                        except InvalidEvent as error:
                            note(f"an answer at {subject} is passed over: {error.message}")
        finally:
            await subscription.unsubscribe()
    return replies
