"""What a tenant's service may ask: ``<prefix>.ask.<tenant>.<verb>``, answered by :mod:`agents.tenants`.

The subject says whose the turns and records are; the broker lets each tenant's user publish on its own subjects alone.
"""

from typing import Annotated

from msgspec import Meta

from schemas.base import Integer, WireStruct, refuse_non_finite
from schemas.chat import Usage
from schemas.envelope import SESSION_PATTERN, TURN_ID_PATTERN, User
from schemas.findings import Query
from schemas.services import MAX_FETCH, Record

MAX_TIMEOUT = 900.0
"""The most seconds of a turn."""

PIECE = "Kiki-Piece"
"""Header of a message with a piece of live text (:class:`TenantPiece`); the last message, without it, is the reply."""


class TenantTurn(WireStruct, frozen=True, kw_only=True):
    """Verb ``turn``: a question. With ``query.stream`` pieces of the answer come before the reply.

    ``user`` is whom the tenant asks for; what is remembered is that user's, and without one the session's alone.
    """

    query: Query
    user: User = ""
    session_id: Annotated[str, Meta(pattern=SESSION_PATTERN)] | None = None
    timeout: Annotated[float, Meta(gt=0.0, le=MAX_TIMEOUT)] = 120.0

    def __post_init__(self) -> None:
        refuse_non_finite(timeout=self.timeout)


class TenantPiece(WireStruct, frozen=True, kw_only=True):
    """A piece of an answer while it is decoded."""

    turn_id: str
    text: str


class TenantAnswer(WireStruct, frozen=True, kw_only=True):
    """How a turn of the tenant's ended: with this text."""

    turn_id: str
    session_id: str
    text: str
    model: str
    usage: Usage


class TenantEnd(WireStruct, frozen=True, kw_only=True):
    """Verb ``end``: how one of the tenant's turns ended."""

    turn_id: Annotated[str, Meta(pattern=TURN_ID_PATTERN)]


class TenantRecords(WireStruct, frozen=True, kw_only=True):
    """Verb ``records``: the tenant's records after the sequence ``after``, oldest first; of a user, if named."""

    after: Integer = 0
    limit: Annotated[int, Meta(ge=1, le=MAX_FETCH)] = 32
    user: User | None = None


class TenantRecordsReply(WireStruct, frozen=True, kw_only=True):
    """Records in their order, and the sequence ``after`` which the next request goes on; ``more`` says whether it may
    find any."""

    records: tuple[Record, ...]
    after: Integer
    more: bool
