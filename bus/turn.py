"""One turn as it happens: its events and its live text, until it ends. Needs nats-py and :mod:`schemas` only.

A redelivered turn decodes from the beginning: its tokens carry a higher ``attempt`` and count from 0. Text that was
shown cannot be taken back, so only what continues it is shown (:class:`LiveText`).
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from bus.subjects import Subjects
from schemas.codec import decode
from schemas.errors import KikiError, Unavailable
from schemas.events import STAGE_EVENTS, AnswerReady, Event, InferToken, TurnCancelled, TurnFailed

Happening = Event | InferToken
Kind = type[Event] | type[InferToken]

ENDS: tuple[type[Event], ...] = (AnswerReady, TurnFailed, TurnCancelled)
"""How a turn ends."""


ALL_KINDS: tuple[Kind, ...] = (*STAGE_EVENTS, InferToken)


def turn_subjects(subjects: Subjects, turn_id: str, *, whole: bool) -> list[str]:
    """The subjects that carry the ``whole`` turn, or only those on which it can end."""
    return [subjects.turn(turn_id)] if whole else [subjects.stage(kind.subject, turn_id) for kind in ENDS]


@asynccontextmanager
async def follow_turn(
    client: Client, subjects: Subjects, turn_id: str, *, kinds: Sequence[Kind] = ALL_KINDS
) -> AsyncIterator[AsyncGenerator[Happening, None]]:
    """The turn's events from now on; subscribe before the turn is asked. The last one says how it ended.

    ``kinds`` are those that are wanted beside the turn's end, in their order; with none of them the broker sends
    nothing but the end.

    Iterating raises:
        Unavailable: the connection was closed before the turn ended.
        InvalidEvent: somebody publishes what the contract does not promise.
    """
    messages: asyncio.Queue[Msg | None] = asyncio.Queue()
    subscriptions = [await client.subscribe(subject) for subject in turn_subjects(subjects, turn_id, whole=bool(kinds))]
    pumps = [asyncio.create_task(_pump(subscription, messages)) for subscription in subscriptions]
    happenings = _read_happenings(messages, {kind.subject: kind for kind in (*kinds, *ENDS)})
    try:
        yield happenings
    finally:
        for pump in pumps:
            pump.cancel()
        await happenings.aclose()
        for subscription in subscriptions:
            await subscription.unsubscribe()


async def _pump(subscription: Subscription, messages: "asyncio.Queue[Msg | None]") -> None:
    """Queue each message, and None when the connection is closed."""
    try:
        async for message in subscription.messages:
            messages.put_nowait(message)
    finally:
        messages.put_nowait(None)


async def _read_happenings(
    messages: "asyncio.Queue[Msg | None]", kinds: Mapping[str, Kind]
) -> AsyncGenerator[Happening, None]:
    while (message := await messages.get()) is not None:
        kind = kinds.get(".".join(message.subject.split(".")[-3:-1]))
        if kind is None:
            continue  # not wanted, or a newer runtime's event
        event = decode(kind, message.data)
        yield event
        if isinstance(event, ENDS):
            return
    raise Unavailable("the connection was closed before the turn ended.")


async def wait_for_answer(happenings: AsyncIterator[Happening]) -> AnswerReady:
    """Wait for the turn's answer.

    Raises:
        KikiError: a stage gave the turn up, or somebody cancelled it.
        Unavailable: the connection was closed before the turn ended.
    """
    async for event in happenings:
        if isinstance(event, AnswerReady):
            return event
        raise_if_failed(event)
    raise Unavailable("the connection was closed before the turn ended.")


def raise_if_failed(event: Happening) -> None:
    """Raises KikiError when the event says that no answer will come."""
    if isinstance(event, TurnFailed):
        raise KikiError(f"{event.stage} failed: {event.message}", code=event.code)
    if isinstance(event, TurnCancelled):
        raise KikiError(f"the turn was cancelled: {event.reason}", code="cancelled")


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
