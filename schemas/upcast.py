"""Events of older versions brought to this version: one step for each version, on decoded JSON before validation.

A step may rely only on what its own version of the contract promised. Steps are never removed: the record keeps what
was written under every version.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from schemas.base import LARGEST_INTEGER, UNREADABLE
from schemas.envelope import PERSON, SCHEMA_VERSION
from schemas.numbers import LAST_TIME

Body = dict[str, Any]

KEYLESS_TENANT = "default"
"""The tenant of a machine without keys."""


def upcast(data: bytes) -> bytes | None:
    """An event of an older version as this version writes it; None when ``data`` is no older event."""
    try:
        body = msgspec.json.decode(data)
    except UNREADABLE:
        return None
    if not isinstance(body, dict) or not isinstance(envelope := body.get("envelope"), dict):
        return None
    version = envelope.get("schema_version")
    if not isinstance(version, int) or not 1 <= version < SCHEMA_VERSION:
        return None
    for step in STEPS[version - 1 :]:
        step(body)
    envelope["schema_version"] = SCHEMA_VERSION
    return msgspec.json.encode(body)


def earlier_user(tenant: object) -> str:
    """The user of events that were recorded before there were users.

    On a machine without keys it is the machine's person. Those of a tenant with a key belong to their conversation.
    """
    return PERSON if tenant == KEYLESS_TENANT else ""


def _upgrade_from_1(body: Body) -> None:
    """Since version 2 an episode has the conversation; of an older one only the question is known."""
    episode = body.get("episode")
    if isinstance(episode, dict) and isinstance(episode.get("question"), str):
        episode.setdefault("messages", [{"role": "user", "content": episode["question"]}])


def _upgrade_from_2(body: Body) -> None:
    """Since version 3 an event has a user: see :func:`earlier_user`."""
    for owned in (body["envelope"], body.get("episode")):
        if isinstance(owned, dict):
            owned.setdefault("user", earlier_user(owned.get("tenant")))


def _upgrade_from_3(body: Body) -> None:
    """Since version 4 integers and times have bounds; a time beyond them was in milliseconds."""
    envelope = body["envelope"]
    if isinstance(sequence := envelope.get("sequence"), int):
        envelope["sequence"] = min(sequence, LARGEST_INTEGER)
    if isinstance(created_at := envelope.get("created_at"), int | float):
        seconds = created_at / 1000.0 if created_at > LAST_TIME else float(created_at)
        envelope["created_at"] = min(max(seconds, 0.0), LAST_TIME)


def _upgrade_from_4(_: Body) -> None:
    """Version 5 adds fields with defaults that say what an older event could only mean."""


STEPS: tuple[Callable[[Body], None], ...] = (_upgrade_from_1, _upgrade_from_2, _upgrade_from_3, _upgrade_from_4)
"""The step at index ``n`` (from 0) brings version ``n + 1`` to version ``n + 2``."""
