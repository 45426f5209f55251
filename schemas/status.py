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


class AgentReport(WireStruct, frozen=True, kw_only=True):
    """One instance's answer to ``svc.status``: its status and its metrics in Prometheus text format.

    The request is empty, and every instance of every agent answers it; ``/ready`` counts an agent by it. ``metrics``
    may be empty. ``pid`` and ``host`` name its process, and ``resident_bytes`` are those of it, other agents in it
    included; 0 when it does not say.
    """

    status: StatusReply
    pid: Integer
    metrics: str = ""
    host: str = ""
    resident_bytes: Integer = 0


class ServiceError(WireStruct, frozen=True, kw_only=True):
    """The reply when a request cannot be answered; its message has the header ``Nats-Service-Error``.

    ``retryable`` says that the same request may succeed later; ``param`` names the field at fault.
    """

    code: str
    message: str
    param: str | None = None
    retryable: bool = False


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
