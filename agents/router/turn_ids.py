"""Finds questions under a turn id that another question has: the broker takes them, and no stage would work on them."""

import hashlib
from collections import OrderedDict

from schemas.codec import encode
from schemas.errors import InvalidInput
from schemas.events import QueryReceived

MAX_REMEMBERED = 4096
"""Turn ids that are remembered, the latest."""


class TurnIds:
    """The latest turn ids, each with a digest of its first question and of whose it is."""

    def __init__(self) -> None:
        self._digests: OrderedDict[str, bytes] = OrderedDict()

    def is_taken(self, event: QueryReceived) -> bool:
        """Whether another question came under the same turn id before; the first one that comes has it."""
        envelope, digest = event.envelope, _digest(event)
        if (first := self._digests.get(envelope.turn_id)) is not None:
            return first != digest
        self._digests[envelope.turn_id] = digest
        while len(self._digests) > MAX_REMEMBERED:
            self._digests.popitem(last=False)
        return False


def refusal(event: QueryReceived) -> InvalidInput:
    """The error for a question whose turn id is taken."""
    return InvalidInput(
        f"the turn id {event.envelope.turn_id} is taken by another question: make a new one for each.",
        param="envelope.turn_id",
    )


def _digest(event: QueryReceived) -> bytes:
    envelope = event.envelope
    owner = f"{envelope.tenant}\n{envelope.user}\n{envelope.session_id}\n"
    return hashlib.sha256(owner.encode() + encode(event.query)).digest()
