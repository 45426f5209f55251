"""One request to a service, and its refusal as an error. Needs nats-py and :mod:`schemas` only."""

from collections.abc import Mapping
from typing import TypeVar

import msgspec
import nats.errors
from nats.aio.client import Client

from schemas.codec import decode, encode
from schemas.errors import RETRYABLE_CODES, KikiError, Unavailable
from schemas.status import ServiceError

R = TypeVar("R", bound=msgspec.Struct)


async def request(
    client: Client,
    subject: str,
    body: msgspec.Struct,
    reply: type[R],
    *,
    timeout: float,
    headers: Mapping[str, str] | None = None,
) -> R:
    """Ask, and wait at most ``timeout`` seconds.

    Raises:
        Unavailable: nobody serves the subject or no answer came in time.
        KikiError: the service's refusal, with its code and field.
    """
    try:
        message = await client.request(subject, encode(body), timeout=timeout, headers=dict(headers or {}) or None)
    except (TimeoutError, nats.errors.Error) as error:
        raise no_answer(subject.split(".svc.", 1)[-1], type(error).__name__) from error
    if (message.headers or {}).get("Nats-Service-Error"):
        refusal = decode(ServiceError, message.data)
        raise KikiError(
            refusal.message, code=refusal.code, param=refusal.param, retryable=refusal.code in RETRYABLE_CODES
        )
    return decode(reply, message.data)


def no_answer(verb: str, why: str) -> Unavailable:
    """The error of a request that nobody answered."""
    return Unavailable(f"no answer from service '{verb}' ({why}); is its agent up?")
