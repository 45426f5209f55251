"""The envelope of every event: whose it is, which event caused it, and the deadline."""

import re
import time
import uuid
from typing import Annotated

import msgspec
from msgspec import Meta

from schemas.base import END, LARGEST_INTEGER, WireStruct
from schemas.numbers import UnixTime

SCHEMA_VERSION = 5
"""Version of the wire contract. Readers refuse a newer one and upcast an older one (:mod:`schemas.upcast`)."""

TURN_ID_PATTERN = rf"^[A-Za-z0-9_-]{{1,64}}{END}"
"""A turn id is one token of a subject, so that ``kiki.*.*.<turn_id>`` matches every event of the turn."""

TENANT_PATTERN = rf"^[A-Za-z0-9_.@-]{{1,128}}{END}"
SESSION_PATTERN = rf"^[\x21-\x7e]{{1,128}}{END}"
USER_PATTERN = rf"^[^\x00-\x1f\x7f]*{END}"
"""Any text on one line."""

MAX_SECONDS = 3600.0
"""Seconds that a turn may take, as long as its events are kept; a deadline that is further away counts as this one."""

MAX_USER = 256
User = Annotated[str, Meta(pattern=USER_PATTERN, max_length=MAX_USER)]
"""Who asks, as the tenant names them; empty when nobody is named."""

PERSON = "me"
"""The user whom a machine's own commands name, and whose the episodes are that the machine recorded before users."""


class Envelope(WireStruct, frozen=True, kw_only=True):
    """Whose event it is, and where in the turn it stands; :meth:`next` makes the envelope of the following event.

    Memory belongs to the ``tenant`` and the ``user``; ``session_id`` is a name within the two. Without a user it
    belongs to the session alone.

    ``created_at`` and ``deadline`` are Unix times in seconds; a turn has at most :data:`MAX_SECONDS` from when it
    is stored, whatever its deadline says. ``sequence`` counts the stages from 0. ``causation_id`` is the id of the
    event that led to this one.
    """

    event_id: str
    turn_id: Annotated[str, Meta(pattern=TURN_ID_PATTERN)]
    session_id: Annotated[str, Meta(pattern=SESSION_PATTERN)]
    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)]
    created_at: UnixTime
    deadline: float
    user: User = ""
    causation_id: str | None = None
    sequence: Annotated[int, Meta(ge=0, le=LARGEST_INTEGER)] = 0
    schema_version: Annotated[int, Meta(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION

    def next(self, stage: str) -> "Envelope":
        """The envelope of the event that ``stage`` publishes because of this one.

        The event id is derived from turn and stage, not random, so that a redelivered turn publishes the same event.
        """
        return Envelope(
            event_id=f"{self.turn_id}:{stage}",
            turn_id=self.turn_id,
            session_id=self.session_id,
            tenant=self.tenant,
            user=self.user,
            created_at=time.time(),
            deadline=self.deadline,
            causation_id=self.event_id,
            sequence=min(self.sequence + 1, LARGEST_INTEGER),
        )

    def cap_deadline(self, began_at: float) -> "Envelope":
        """The same envelope with a deadline of at most :data:`MAX_SECONDS` after the Unix time ``began_at``."""
        latest = began_at + MAX_SECONDS
        return self if self.deadline <= latest else msgspec.structs.replace(self, deadline=latest)

    @property
    def remaining(self) -> float:
        """Seconds until the deadline, negative once it has passed."""
        return self.deadline - time.time()


def new_turn(
    *, tenant: str, user: str = "", session_id: str | None = None, timeout: float, key: str | None = None
) -> Envelope:
    """The envelope of a new turn that must end within ``timeout`` seconds.

    ``key`` (an ``Idempotency-Key``) makes the turn id a function of tenant, user and key, so that a client's retry
    is the same turn. Without a session the turn is a session of its own.
    """
    turn_id = uuid.uuid5(uuid.NAMESPACE_OID, f"{tenant}\n{user}\n{key}").hex if key else uuid.uuid4().hex
    now = time.time()
    return Envelope(
        event_id=f"{turn_id}:query.received",
        turn_id=turn_id,
        session_id=session_id or turn_id,
        tenant=tenant,
        user=user,
        created_at=now,
        deadline=now + timeout,
    )


def is_turn_id(text: str) -> bool:
    """Whether ``text`` may stand as the last token of a subject."""
    return re.fullmatch(TURN_ID_PATTERN, text) is not None
