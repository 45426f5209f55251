"""A client's retry is the same turn: finds the turn of an ``Idempotency-Key`` on the bus, or makes a new one.

The turn id is a function of tenant, user, key and generation. A turn that is answered, or that failed for good, is
repeated; one that still runs is joined; one that failed for a passing reason, was cancelled or is past its
deadline makes room for the next generation. Generations are tried in order, so all replicas agree.
"""

from dataclasses import dataclass

import msgspec

from bus.connection import Bus
from bus.turns.events import find_end
from schemas.envelope import Envelope, new_turn
from schemas.errors import InvalidInput, KikiError, Refused
from schemas.events import AnswerReady, QueryReceived, TurnFailed
from schemas.findings import Query

MAX_GENERATIONS = 8
"""Turns that one key may start before its client is told to choose another."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The turn that a request gets.

    ``answer`` is set when it was answered before; ``running`` when another request of the same key started it.
    """

    envelope: Envelope
    query: Query
    answer: AnswerReady | None = None
    running: bool = False


async def claim(
    bus: Bus,
    query: Query,
    *,
    seed: int | None,
    tenant: str,
    user: str,
    session_id: str | None,
    key: str | None,
    timeout: float,
) -> Claim:
    """Find or make the turn of a request. Publishes nothing.

    Raises:
        InvalidInput: the key was used for another request (422).
        Refused: the key has started too many turns.
        KikiError: the turn of this key failed for good.
        Unavailable: the broker cannot be read.
    """
    if key is None:
        return _new_claim(query, new_turn(tenant=tenant, user=user, session_id=session_id, timeout=timeout), seed)
    for generation in range(MAX_GENERATIONS):
        # A header holds no newline, so no client's key is the same as that of another key's later generation.
        name = key if generation == 0 else f"{key}\n{generation}"
        envelope = new_turn(tenant=tenant, user=user, session_id=session_id, timeout=timeout, key=name)
        new_claim = _new_claim(query, envelope, seed)
        previous = await bus.last(QueryReceived, envelope.turn_id)
        if previous is None:
            return new_claim
        if msgspec.structs.replace(previous.query, stream=query.stream) != new_claim.query:
            raise InvalidInput(
                "this Idempotency-Key was used for another request: send a new key.",
                code="unprocessable",
                param="Idempotency-Key",
            )
        stored_claim = await _find_stored_claim(bus, previous)
        if stored_claim is not None:
            return stored_claim
    raise Refused(f"this Idempotency-Key has started {MAX_GENERATIONS} turns: send a new key.", param="Idempotency-Key")


async def _find_stored_claim(bus: Bus, previous: QueryReceived) -> Claim | None:
    """The stored turn if it can still answer the request; None when the next generation must.

    Raises:
        KikiError: the stored turn failed for good.
    """
    turn_id = previous.envelope.turn_id
    end = await find_end(bus, turn_id)
    if isinstance(end, AnswerReady):
        return Claim(envelope=previous.envelope, query=previous.query, answer=end)
    if isinstance(end, TurnFailed) and not end.retryable:
        raise KikiError(end.message, code=end.code)
    if end is not None or previous.envelope.remaining <= 0:
        return None
    return Claim(envelope=previous.envelope, query=previous.query, running=True)


def _new_claim(query: Query, envelope: Envelope, seed: int | None) -> Claim:
    return Claim(envelope=envelope, query=seeded(query, seed, envelope.turn_id))


def seeded(query: Query, seed: int | None, turn_id: str) -> Query:
    """The query with its seed; without one the seed is made from the turn id, so that a retry asks the same."""
    value = int(turn_id[:12], 16) if seed is None else seed
    return msgspec.structs.replace(query, sampling=msgspec.structs.replace(query.sampling, seed=value))
