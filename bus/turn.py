"""One turn as it happens: its events and its live text, until it ends. Needs nats-py and :mod:`schemas` only.

A turn that is delivered again is decoded from the beginning: its tokens carry a higher ``attempt`` and count from 0.
Text that a reader has seen cannot be taken back, so only text that continues it is shown (:class:`LiveText`).
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from bus.errors import BROKER_ERRORS, translate_errors
from bus.subjects import Subjects
from schemas.codec import decode
from schemas.envelope import Envelope
from schemas.errors import DeadlineExceeded, InvalidEvent, InvalidStage, KikiError, Unavailable
from schemas.events import (
    ENDS,
    STAGE_EVENTS,
    AnswerReady,
    Event,
    InferBegun,
    InferToken,
    Signal,
    TurnCancelled,
    TurnFailed,
)

Happening = Event | Signal
"""What is published during a turn: an event, or what the worker signals while it works."""

Kind = type[Event] | type[InferBegun] | type[InferToken]

LATE_SECONDS = 1.0
"""Seconds that a stage has after the deadline to report that it has passed."""

ALL_KINDS: tuple[Kind, ...] = (*STAGE_EVENTS, InferBegun, InferToken)


class TurnEvents:
    """Iterates over a turn's events as they arrive, up to the one with which it ends. Made by :func:`follow_turn`.

    Waiting for the next event may be cancelled and repeated; no event is lost by that.
    """

    def __init__(self, envelope: Envelope, kinds: Sequence[Kind]) -> None:
        self.envelope = envelope
        self._owner = _owner_of(envelope)
        self._kinds = {kind.subject: kind for kind in kinds}
        self._messages: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether the turn's end came, readable or not: nothing follows."""
        return self._ended

    def __aiter__(self) -> AsyncIterator[Happening]:
        return self

    async def __anext__(self) -> Happening:
        """The next event.

        Raises:
            Unavailable: the connection was closed before the turn ended.
            InvalidStage: a message is not what its subject promises, and a stage published it. If it is the turn's end,
                the turn has failed with that; otherwise the iteration can go on with the next event.
        """
        if self._ended:
            raise StopAsyncIteration
        while (message := await self._messages.get()) is not None:
            kind = self._kinds.get(Subjects.kind(message.subject))
            if kind is None:
                continue  # a kind that was not asked for, or an event of a newer runtime
            try:
                event = decode(kind, message.data)
            except InvalidEvent as error:
                self._ended = kind in ENDS
                raise invalid_stage(kind, error) from error
            if isinstance(event, ENDS) and _owner_of(event.envelope) != self._owner:
                continue  # the end of a turn of somebody else, who took the same id
            self._ended = isinstance(event, ENDS)
            return event
        raise Unavailable("the connection was closed before the turn ended.")

    async def next(self, *, late: float = LATE_SECONDS) -> Happening:
        """The next event of a turn that goes on, or its answer. It may come ``late`` seconds after the deadline.

        Raises:
            DeadlineExceeded: none came by then.
            KikiError: a stage gave the turn up, or somebody cancelled it; or what the iteration raises.
        """
        try:
            async with asyncio.timeout(max(0.0, self.envelope.remaining) + late):
                event = await anext(self)
        except TimeoutError as error:
            raise DeadlineExceeded("the turn's deadline passed without a word.") from error
        raise_if_failed(event)
        return event

    async def answer(self) -> AnswerReady:
        """Wait for the turn's answer. Raises what :meth:`next` raises."""
        while True:
            if isinstance(event := await self.next(), AnswerReady):
                return event

    async def _collect(self, subscription: Subscription) -> None:
        """Queue the messages of a subscription until the connection is closed."""
        try:
            async for message in subscription.messages:
                self._messages.put_nowait(message)
        finally:
            self._messages.put_nowait(None)


@asynccontextmanager
async def follow_turn(
    client: Client,
    subjects: Subjects,
    envelope: Envelope,
    *,
    kinds: Sequence[Kind] = ALL_KINDS,
    awaited: bool = False,
) -> AsyncIterator[TurnEvents]:
    """The events of the turn of ``envelope``, from now on. Enter the context before the question is published.

    ``kinds`` are the kinds of events to read beside the turn's end; without any of them the broker sends only the end.
    ``awaited``: whoever asks meanwhile whether the turn is waited for is told so (:mod:`bus.turns.awaiting`).

    Raises:
        BrokerUnavailable: the connection is closed.
    """
    turn_id = envelope.turn_id
    events = TurnEvents(envelope, (*kinds, *ENDS))
    filters = [subjects.turn(turn_id)] if kinds else [subjects.stage(kind.subject, turn_id) for kind in ENDS]
    with translate_errors("the turn cannot be followed"):
        subscriptions = [await client.subscribe(subject) for subject in filters]
    collectors = [asyncio.create_task(events._collect(subscription)) for subscription in subscriptions]
    try:
        async with _wait_openly(client, subjects, turn_id) if awaited else nullcontext():
            yield events
    finally:
        for collector in collectors:
            collector.cancel()
        with suppress(*BROKER_ERRORS):  # the connection is closed, and the subscriptions with it
            for subscription in subscriptions:
                await subscription.unsubscribe()
        await asyncio.gather(*collectors, return_exceptions=True)


@asynccontextmanager
async def _wait_openly(client: Client, subjects: Subjects, turn_id: str) -> AsyncIterator[None]:
    async def confirm(message: Msg) -> None:
        if message.reply:
            await client.publish(message.reply)

    with translate_errors("the turn cannot be waited for"):
        subscription = await client.subscribe(subjects.awaits(turn_id), cb=confirm)
    try:
        yield
    finally:
        with suppress(*BROKER_ERRORS):  # the connection is closed, and the subscription with it
            await subscription.unsubscribe()


def raise_if_failed(event: Happening) -> None:
    """Raise a KikiError when the event says that no answer will come."""
    if (error := error_of(event)) is not None:
        raise error


def invalid_stage(kind: Kind, error: InvalidEvent) -> InvalidStage:
    """The error of a turn in which a stage published an event of ``kind`` that cannot be read."""
    publisher = getattr(kind, "publisher", "") or "a stage"
    return InvalidStage(f"{publisher} published a {kind.subject} that is not valid: {error.message}", param=error.param)


def _owner_of(envelope: Envelope) -> tuple[str, str, str]:
    return envelope.tenant, envelope.user, envelope.session_id


def error_of(event: Happening) -> KikiError | None:
    """The error for a turn that failed or was cancelled; None for any other event."""
    if isinstance(event, TurnFailed):
        return KikiError(event.message, code=event.code, param=event.param, retryable=event.retryable)
    if isinstance(event, TurnCancelled):
        if event.retryable:
            return Unavailable(f"the turn was cancelled: {event.reason}. Ask again.")
        return KikiError(f"the turn was cancelled: {event.reason}.", code="cancelled")
    return None


class Diverged(KikiError):
    """The turn was decoded again, and its text does not continue what the reader has seen already."""

    code = "internal_error"
    retryable = True


class LiveText:
    """Decides which live text to show when a turn may be decoded more than once.

    By kind (content, reasoning) it keeps the text that is visible, and the text of the newest attempt. A newer attempt
    repeats what is visible first; its text is shown again from where it goes beyond that.
    """

    def __init__(self) -> None:
        self._attempt = 0
        self._next = 0
        self._attempt_texts: dict[str, str] = {}
        self._visible_texts: dict[str, str] = {}

    def add(self, token: InferToken) -> str:
        """Take a token; returns the text to show now: none for an old attempt, a repetition, or after a lost token."""
        if token.attempt > self._attempt:
            self._attempt, self._next, self._attempt_texts = token.attempt, 0, {}
        # After a lost token the rest of this attempt is left out; finish() shows what is missing.
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
        """The rest of the whole ``text`` that is still to show; blank space at either end may differ.

        Raises:
            Diverged: the visible text is not the beginning of ``text``.
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
