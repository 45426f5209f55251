"""An agent's health, its refusals of requests, and the messages that it gave up on."""

from schemas.base import Integer, WireStruct
from schemas.numbers import UnixTime


class StatusReply(WireStruct, frozen=True, kw_only=True):
    """An agent's health: whether it can take work, and its gauges (counts, bytes, seconds)."""

    agent: str
    ready: bool
    detail: str = ""
    gauges: dict[str, float] = {}
    info: dict[str, str] = {}


class ServiceError(WireStruct, frozen=True, kw_only=True):
    """The reply when a request cannot be answered."""

    code: str
    message: str
    param: str | None = None


class DeadLetter(WireStruct, frozen=True, kw_only=True):
    """A message that a consumer gave up on, with everything that is needed to inspect and to replay it.

    ``payload`` is the original body (base64 on the wire, bytes in Python); ``subject`` is where it was published.
    A body that is too large for a letter is in the object store by its ``payload_sha256``; the letter has no headers
    then.
    """

    subject: str
    stream: str
    consumer: str
    reason: str
    deliveries: Integer
    headers: dict[str, str]
    payload: bytes
    failed_at: UnixTime
    payload_sha256: str = ""
