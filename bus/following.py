"""One turn as it happens: its events and its live text, until it ends. Needs nats-py and :mod:`schemas` only."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from nats.aio.client import Client
from nats.aio.subscription import Subscription

from bus.subjects import Subjects
from schemas.codec import decode
from schemas.errors import Unavailable
from schemas.events import STAGE_EVENTS, AnswerReady, Event, InferToken, TurnCancelled, TurnFailed

_EVENTS: tuple[type[Event] | type[InferToken], ...] = (*STAGE_EVENTS, InferToken)
_KINDS = {kind.subject: kind for kind in _EVENTS}
_ENDS = (AnswerReady, TurnFailed, TurnCancelled)

Happening = Event | InferToken


@asynccontextmanager
async def following(client: Client, subjects: Subjects, turn_id: str) -> AsyncIterator[AsyncGenerator[Happening, None]]:
    """The turn's events from now on; subscribe before the turn is asked. The last one says how it ended.

    Iterating raises:
        Unavailable: the connection was closed before the turn ended.
        InvalidEvent: somebody publishes what the contract does not promise.
    """
    subscription = await client.subscribe(subjects.turn(turn_id))
    happening = _happening(subscription)
    try:
        yield happening
    finally:
        await happening.aclose()
        await subscription.unsubscribe()


async def _happening(subscription: Subscription) -> AsyncGenerator[Happening, None]:
    async for message in subscription.messages:
        kind = _KINDS.get(".".join(message.subject.split(".")[-3:-1]))
        if kind is None:
            continue  # a newer runtime's event
        event = decode(kind, message.data)
        yield event
        if isinstance(event, _ENDS):
            return
    raise Unavailable("the connection was closed before the turn ended.")


async def ending(happening: AsyncIterator[Happening]) -> AnswerReady | TurnFailed | TurnCancelled:
    """Wait for the turn's end."""
    async for event in happening:
        if isinstance(event, _ENDS):
            return event
    raise Unavailable("the connection was closed before the turn ended.")
