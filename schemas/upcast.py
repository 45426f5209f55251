"""Yesterday's events as today's: one step for each version, on the decoded JSON before it is checked.

A step may rely on what the version before it promised, and on nothing else. Steps are never removed: the record keeps
what was written under every version.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from schemas.envelope import SCHEMA_VERSION

Body = dict[str, Any]


def upcast(data: bytes) -> bytes | None:
    """The event of an older version as this version writes it; None when it is not older, or is no event."""
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
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


def _upgrade_from_1(body: Body) -> None:
    """Episodes carry the conversation; of an older one the question is known."""
    episode = body.get("episode")
    if isinstance(episode, dict) and isinstance(episode.get("question"), str):
        episode.setdefault("messages", [{"role": "user", "content": episode["question"]}])


STEPS: tuple[Callable[[Body], None], ...] = (_upgrade_from_1,)
"""The step at place ``n`` makes version ``n + 1`` into version ``n + 2``."""
