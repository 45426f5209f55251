"""One turn as it happens: its events and its live text, until it ends. Needs nats-py and :mod:`schemas` only.

A redelivered turn decodes from the beginning: its tokens carry a higher ``attempt`` and count from 0. Text that was
shown cannot be taken back, so only what continues it is shown (:class:`LiveText`).
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from bus.errors import BROKER_ERRORS, translate_errors
from bus.subjects import Subjects
from schemas.codec import decode
from schemas.errors import KikiError, Unavailable
from schemas.events import STAGE_EVENTS, AnswerReady, Event, InferToken, TurnCancelled, TurnFailed

Happening = Event | InferToken
Kind = type[Event] | type[InferToken]

ENDS: tuple[type[Event], ...] = (AnswerReady, TurnFailed, TurnCancelled)
"""How a turn ends."""

ALL_KINDS: tuple[Kind, ...] = (*STAGE_EVENTS, InferToken)


class TurnEvents:
    """The events of a turn as they come, to the one that says how it ended. Made by :func:`follow_turn`.

    Waiting for the next one may be broken off and begun again; nothing is lost by it.
    """

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self._kinds = {kind.subject: kind for kind in kinds}
        self._messages: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._ended = False

    def __aiter__(self) -> AsyncIterator[Happening]:
        return self

    async def __anext__(self) -> Happening:
        """The next event.

        Raises:
            Unavailable: the connection was closed before the turn ended.
            InvalidEvent: somebody published what the contract does not promise; what follows it can still be read.
        """
        if self._ended:
            raise StopAsyncIteration
        while (message := await self._messages.get()) is not None:
            kind = self._kinds.get(".".join(message.subject.split(".")[-3:-1]))
            if kind is None:
                continue  # not wanted, or a newer runtime's event
            event = decode(kind, message.data)
            self._ended = isinstance(event, ENDS)
            return event
        raise Unavailable("the connection was closed before the turn ended.")

    async def collect(self, subscription: Subscription) -> None:
        """Take the messages of a subscription, until the connection is closed."""
        try:
            async for message in subscription.messages:
                self._messages.put_nowait(message)
        finally:
            self._messages.put_nowait(None)


@asynccontextmanager
async def follow_turn(
    client: Client, subjects: Subjects, turn_id: str, *, kinds: Sequence[Kind] = ALL_KINDS
) -> AsyncIterator[TurnEvents]:
    """The turn's events from now on; subscribe before the turn is asked. The last one says how it ended.

    ``kinds`` are those that are wanted beside the turn's end, in their order; with none of them the broker sends
    nothing but the end.

    Raises:
        BrokerUnavailable: the connection is closed.
    """
    events = TurnEvents((*kinds, *ENDS))
    wanted = [subjects.turn(turn_id)] if kinds else [subjects.stage(kind.subject, turn_id) for kind in ENDS]
    with translate_errors("the turn cannot be followed"):
        subscriptions = [await client.subscribe(subject) for subject in wanted]
    collectors = [asyncio.create_task(events.collect(subscription)) for subscription in subscriptions]
    try:
        yield events
    finally:
        for collector in collectors:
            collector.cancel()
        with suppress(*BROKER_ERRORS):  # the connection is closed, and the subscriptions with it
            for subscription in subscriptions:
                await subscription.unsubscribe()


async def wait_for_answer(events: TurnEvents) -> AnswerReady:
    """Wait for the turn's answer.

    Raises:
        KikiError: a stage gave the turn up, or somebody cancelled it.
        Unavailable: the connection was closed before the turn ended.
    """
    while True:
        event = await anext(events)
        if isinstance(event, AnswerReady):
            return event
        raise_if_failed(event)


def raise_if_failed(event: Happening) -> None:
    """Raises KikiError when the event says that no answer will come."""
    if (error := error_of(event)) is not None:
        raise error


def error_of(event: Happening) -> KikiError | None:
    """Why no answer will come, when the event says so."""
    if isinstance(event, TurnFailed):
        return KikiError(event.message, code=event.code, retryable=event.retryable)
    if isinstance(event, TurnCancelled):
        return KikiError(f"the turn was cancelled: {event.reason}.", code="cancelled")
    return None


class Diverged(KikiError):
    """The turn was decoded again and came out differently after some of it had been shown."""

    code = "internal_error"
    retryable = True


class LiveText:
    """What was shown of each kind (content, reasoning), and what the newest attempt has said."""

    def __init__(self) -> None:
        self._attempt = 0
        self._next = 0
        self._attempt_texts: dict[str, str] = {}
        self._visible_texts: dict[str, str] = {}

    def hear(self, token: InferToken) -> str:
        """The text to show because of ``token``: none for an old attempt, a repetition, or after a lost token."""
        if token.attempt > self._attempt:
            self._attempt, self._next, self._attempt_texts = token.attempt, 0, {}
        if token.attempt < self._attempt or token.index != self._next:
            return ""
        self._next += 1
        attempt_text = self._attempt_texts[token.kind] = self._attempt_texts.get(token.kind, "") + token.text
        visible = self._visible_texts.get(token.kind, "")
        if not attempt_text.startswith(visible):
            return ""
        self._visible_texts[token.kind] = attempt_text
        return attempt_text[len(visible) :]

    def finish(self, text: str, *, kind: str = "content") -> str:
        """What is left to show of the whole ``text``; space at either end may differ.

        Raises:
            Diverged: what was shown is not its beginning.
        """
        visible = self._visible_texts.get(kind, "")
        if text.startswith(visible):
            return text[len(visible) :]
        if text.strip() == visible.strip():
            return ""
        bare, bare_visible = text.lstrip(), visible.lstrip()
        if bare.startswith(bare_visible):
            return bare[len(bare_visible) :]
        raise Diverged("the answer was decoded again and differs from what was already sent: ask again.")
