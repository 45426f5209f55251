"""One turn as it happens: its events and its live text, until it ends. Needs nats-py and :mod:`schemas` only."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from nats.aio.client import Client
from nats.aio.subscription import Subscription

from bus.subjects import Subjects
from schemas.codec import decode
from schemas.errors import KikiError, Unavailable
from schemas.events import STAGE_EVENTS, AnswerReady, Event, InferToken, TurnCancelled, TurnFailed

Happening = Event | InferToken
Kind = type[Event] | type[InferToken]

ENDS: tuple[Kind, ...] = (AnswerReady, TurnFailed, TurnCancelled)
"""How a turn ends."""


EVERYTHING: tuple[Kind, ...] = (*STAGE_EVENTS, InferToken)


@asynccontextmanager
async def following(
    client: Client, subjects: Subjects, turn_id: str, *, kinds: Sequence[Kind] = EVERYTHING
) -> AsyncIterator[AsyncGenerator[Happening, None]]:
    """The turn's events from now on; subscribe before the turn is asked. The last one says how it ended.

    ``kinds`` are those that are wanted beside the turn's end.

    Iterating raises:
        Unavailable: the connection was closed before the turn ended.
        InvalidEvent: somebody publishes what the contract does not promise.
    """
    subscription = await client.subscribe(subjects.turn(turn_id))
    happening = _happening(subscription, {kind.subject: kind for kind in (*kinds, *ENDS)})
    try:
        yield happening
    finally:
        await happening.aclose()
        await subscription.unsubscribe()


async def _happening(subscription: Subscription, kinds: Mapping[str, Kind]) -> AsyncGenerator[Happening, None]:
    async for message in subscription.messages:
        kind = kinds.get(".".join(message.subject.split(".")[-3:-1]))
        if kind is None:
            continue  # not wanted, or a newer runtime's event
        event = decode(kind, message.data)
        yield event
        if isinstance(event, ENDS):
            return
    raise Unavailable("the connection was closed before the turn ended.")


async def answer(happening: AsyncIterator[Happening]) -> AnswerReady:
    """Wait for the turn's answer.

    Raises:
        KikiError: a stage gave the turn up, or somebody cancelled it.
        Unavailable: the connection was closed before the turn ended.
    """
    async for event in happening:
        if isinstance(event, AnswerReady):
            return event
        end_badly(event)
    raise Unavailable("the connection was closed before the turn ended.")


def end_badly(event: Happening) -> None:
    """Raises KikiError when the event says that no answer will come."""
    if isinstance(event, TurnFailed):
        raise KikiError(f"{event.stage} failed: {event.message}", code=event.code)
    if isinstance(event, TurnCancelled):
        raise KikiError(f"the turn was cancelled: {event.reason}", code="cancelled")
