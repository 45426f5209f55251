"""The client for other services: ask and follow the turn, listen to a stage, read the record at one's own pace.

Needs nats-py and msgspec only. The distribution ``micro-kiki-client`` is made of it and :mod:`schemas`.
"""

import logging
import random
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Literal, TypeVar

import msgspec
from nats.aio.client import Client as Connection
from nats.aio.subscription import Subscription

from bus.access.address import read_address, without_login
from bus.access.login import Login, find_login
from bus.deliveries import DeliveryClient
from bus.errors import BROKER_ERRORS, explain_refusal, is_refusal, translate_errors
from bus.handling.message import encode_event
from bus.request import request
from bus.subjects import MSG_ID, Subjects
from bus.turn import Happening, LiveText, TurnEvents, follow_turn
from schemas.calls import (
    REPLAY_START,
    SERVICES_FETCH,
    SERVICES_LS,
    SERVICES_MARK,
    SERVICES_REGISTER,
    SERVICES_UNREGISTER,
    Service,
)
from schemas.chat import Message, Sampling
from schemas.codec import decode
from schemas.envelope import Envelope, new_turn
from schemas.errors import InvalidEvent, KikiError, Unavailable
from schemas.events import (
    AnswerReady,
    AnswerTaken,
    EpisodeForgotten,
    EpisodeRecorded,
    Event,
    InferToken,
    QueryReceived,
    TurnCancelled,
)
from schemas.findings import Level, Query
from schemas.services import (
    REPLAY_END,
    REPLAY_ERROR,
    REPLAY_SEQ,
    REPLAY_SUBJECT,
    EpisodeFilter,
    FetchRequest,
    MarkReply,
    MarkRequest,
    Record,
    RegisterRequest,
    ReplayRequest,
    Selection,
    ServiceInfo,
    ServiceListRequest,
    Speed,
    UnregisterRequest,
)

E = TypeVar("E", bound=Event)
Q = TypeVar("Q", bound=msgspec.Struct | None)
R = TypeVar("R", bound=msgspec.Struct)

_log = logging.getLogger("micro_kiki_client")

TIMEOUT = 10.0
"""Seconds that a service may take to answer, beyond what the request itself asks it to wait."""

NO_HEADERS: Mapping[str, str] = {}

EPISODE_SUBJECTS = (EpisodeRecorded.subject, EpisodeForgotten.subject)
EVERYTHING = EpisodeFilter()

_EPISODE_DECODERS: dict[str, Callable[[bytes], EpisodeRecorded | EpisodeForgotten]] = {
    EpisodeRecorded.subject: partial(decode, EpisodeRecorded),
    EpisodeForgotten.subject: partial(decode, EpisodeForgotten),
}


@asynccontextmanager
async def connect(
    url: str = "nats://127.0.0.1:4222",
    *,
    prefix: str = "kiki",
    name: str = "micro-kiki-client",
    login: Login | None = None,
    **options: Any,
) -> AsyncIterator["Client"]:
    """A client for the runtime whose broker is at ``url``; ``options`` go to :func:`nats.connect`.

    ``url`` may hold a login, percent-encoded, and be several with commas between; ``login`` are files instead.
    Without either the broker of this machine's own runtime is asked as its owner (:func:`bus.access.login.find_login`).

    Raises:
        Unavailable: no broker answers at ``url``.
        SetupError: it refuses the login, or ``url`` is none, or a file of ``login``.
    """
    address, refusals = read_address(url), list[Exception]()
    login = login or find_login(url)
    report = options.pop("error_cb", None)

    async def note_error(error: Exception) -> None:
        if is_refusal(error):
            refusals.append(error)
        if report is not None:
            await report(error)

    options = {"connect_timeout": 5, "max_reconnect_attempts": 5, **address.login, **login.options(), **options}
    connection = DeliveryClient()
    try:
        await connection.connect(list(address.servers), name=name, error_cb=note_error, **options)
    except BROKER_ERRORS as error:
        await connection.close()
        if refusals:
            raise explain_refusal(refusals[-1], url) from error
        raise Unavailable(f"no NATS server answers at {without_login(url)} ({type(error).__name__}).") from error
    try:
        yield Client(connection, prefix=prefix)
    finally:
        await connection.close()


class Turn:
    """A turn that the client asked for. ``answer`` is set once the turn ended with an answer."""

    def __init__(self, envelope: Envelope, events: TurnEvents, take: Callable[[AnswerReady], Awaitable[None]]) -> None:
        self.envelope = envelope
        self.answer: AnswerReady | None = None
        self._events = events
        self._take = take

    @property
    def id(self) -> str:
        """The turn's id: ``kiki trace`` shows it, ``kiki replay`` repeats it."""
        return self.envelope.turn_id

    @property
    def ended(self) -> bool:
        """Whether the turn's end came: nothing follows."""
        return self._events.ended

    async def events(self) -> AsyncGenerator[Happening, None]:
        """Every event of the turn and every piece of live text, until the turn ends.

        Raises:
            KikiError: the turn failed or was cancelled; ``code`` is public.
            DeadlineExceeded: the turn did not end before its deadline.
            Unavailable: the connection was closed, or the answer is there and cannot be recorded.
        """
        while not self.ended:
            event = await self._events.next(late=TIMEOUT)
            if isinstance(event, AnswerReady):
                await self._take(event)
                self.answer = event
            yield event

    async def text(self) -> AsyncGenerator[str, None]:
        """The answer in pieces while it is decoded, or in one piece when it is judged before it is shown.

        Raises:
            KikiError: as :meth:`events`, or the turn was decoded again and the second text differs from the first.
        """
        live = LiveText()
        async for event in self.events():
            if isinstance(event, AnswerReady):
                rest = live.finish(event.text)
            elif isinstance(event, InferToken) and event.kind == "content":
                rest = live.add(event)
            else:
                continue
            if rest:
                yield rest


class Client:
    """What another service can ask of a runtime. Made by :func:`connect`, or around a connection of your own."""

    def __init__(self, connection: Connection, *, prefix: str = "kiki") -> None:
        self.connection = connection
        self.subjects = Subjects(prefix)

    @asynccontextmanager
    async def turn(
        self,
        question: str | Sequence[Message],
        *,
        model: str = "micro-kiki",
        tenant: str = "default",
        user: str = "",
        session_id: str | None = None,
        level: Level | None = None,
        sampling: Sampling | None = None,
        history: Literal["none", "session"] = "none",
        timeout: float = 120.0,
    ) -> AsyncIterator[Turn]:
        """Ask a question and follow its turn; leaving the context before the turn's end cancels the turn, and so does
        the death of this process. An answer is given out once the broker has stored that it is, so that it is recorded.

        What is recalled is the ``user``'s; without one that of the session alone.
        ``history`` "session": the memory puts the last turns of ``session_id`` before the question.

        Raises:
            Unavailable: the broker did not take the question.
        """
        messages = (Message(role="user", content=question),) if isinstance(question, str) else tuple(question)
        query = Query(
            model=model,
            messages=messages,
            sampling=sampling or Sampling(seed=random.getrandbits(31)),
            level=level,
            stream=True,
            history=history,
            awaited=True,
        )
        envelope = new_turn(tenant=tenant, user=user, session_id=session_id, timeout=timeout)
        async with follow_turn(self.connection, self.subjects, envelope, awaited=True) as events:
            turn = Turn(envelope, events, self._take)
            await self.publish(QueryReceived(envelope=envelope, query=query))
            try:
                yield turn
            finally:
                if not turn.ended:
                    left = envelope.next(TurnCancelled.subject)
                    stop = TurnCancelled(envelope=left, reason="the asker left", retryable=True)
                    with suppress(Unavailable):  # the broker is away; the turn's deadline ends it
                        await self.publish(stop)

    async def ask(self, question: str | Sequence[Message], **options: Any) -> AsyncGenerator[str, None]:
        """The answer in pieces; ``options`` are those of :meth:`turn`."""
        async with self.turn(question, **options) as turn:
            async for piece in turn.text():
                yield piece

    @asynccontextmanager
    async def stage(self, kind: type[E], *, turn_id: str = "*") -> AsyncIterator[AsyncGenerator[E, None]]:
        """The events of one stage as they are published, of all turns or of one; over core NATS, at most once each.

        A message that cannot be read is passed over, with a line in the log.
        """
        subscription = await self._subscribe(self.subjects.stage(kind.subject, turn_id))

        async def events() -> AsyncGenerator[E, None]:
            async for message in subscription.messages:
                try:
                    event = decode(kind, message.data)
                except InvalidEvent as error:
                    _log.warning("a message on %s is passed over: %s", message.subject, error.message)
                else:
                    yield event

        stage_events = events()
        try:
            yield stage_events
        finally:
            await stage_events.aclose()
            await subscription.unsubscribe()

    async def register(
        self,
        name: str,
        *,
        subjects: tuple[str, ...] = EPISODE_SUBJECTS,
        filter: EpisodeFilter = EVERYTHING,
        ack_wait: float = 30.0,
        begin: Literal["first", "new"] = "first",
    ) -> ServiceInfo:
        """Register a service under a name; it gets a place in the record.

        Tombstones (a record without an episode) come by default: they say which records were forgotten.

        Raises:
            KikiError: ``name_taken``, ``matches_nothing``, or a field that is wrong; ``param`` names it.
        """
        body = RegisterRequest(name=name, subjects=subjects, filter=filter, ack_wait=ack_wait, begin=begin)
        return await self.request(SERVICES_REGISTER, body)

    async def join(
        self,
        name: str,
        *,
        subjects: tuple[str, ...] = EPISODE_SUBJECTS,
        filter: EpisodeFilter = EVERYTHING,
        ack_wait: float = 30.0,
        begin: Literal["first", "new"] = "first",
    ) -> ServiceInfo:
        """Go on at the place that is registered under the name; register it where there is none.

        Raises:
            KikiError: as :meth:`register`; ``name_taken`` when the name stands for other subjects or another filter.
        """
        try:
            return await self.register(name, subjects=subjects, filter=filter, ack_wait=ack_wait, begin=begin)
        except KikiError as error:
            standing = [service for service in await self.services() if service.name == name]
            if error.code == "name_taken" and standing:
                (info,) = standing
                if set(info.subjects) == set(subjects) and info.filter == filter:
                    return info
            raise

    async def services(self) -> tuple[ServiceInfo, ...]:
        """The registered services."""
        return (await self.request(SERVICES_LS, ServiceListRequest())).services

    async def fetch(self, name: str, *, limit: int = 32, wait: float = 0.0, holder: str = "") -> tuple[Record, ...]:
        """The oldest records that service ``name`` has not consumed; the same ones each time until they are marked."""
        body = FetchRequest(name=name, limit=limit, wait=wait, holder=holder)
        return (await self.request(SERVICES_FETCH, body, timeout=TIMEOUT + wait)).records

    async def mark_consumed(self, name: str, ids: Sequence[int], de_id: str) -> MarkReply:
        """Mark the next records in order as consumed by the run ``de_id``; repeating it with that run changes nothing.

        Records that were forgotten meanwhile are passed over; the reply names them.

        Raises:
            KikiError: ``not_delivered``, ``out_of_order`` or ``already_consumed``.
        """
        return await self.request(SERVICES_MARK, MarkRequest(name=name, ids=tuple(ids), de_id=de_id))

    async def unregister(self, name: str) -> ServiceInfo:
        """Remove a registration: its name and its place in the record."""
        return await self.request(SERVICES_UNREGISTER, UnregisterRequest(name=name))

    async def replay(
        self, selection: Selection | None = None, *, speed: Speed = "full"
    ) -> AsyncGenerator[tuple[int, EpisodeRecorded | EpisodeForgotten], None]:
        """A part of the record, each event with its sequence; over core NATS, so a slow reader may miss some.

        Raises:
            KikiError: the replay broke off; ``code`` is public.
            Unavailable: fewer messages arrived than were sent; a registered service misses none.
        """
        subject = f"replays.{uuid.uuid4().hex}"
        subscription = await self._subscribe(subject)
        try:
            body = ReplayRequest(to=subject, selection=selection or Selection(), speed=speed)
            await self.request(REPLAY_START, body)
            count = 0
            async for message in subscription.messages:
                headers = message.headers or {}
                if REPLAY_ERROR in headers:
                    raise KikiError("the replay broke off.", code=headers[REPLAY_ERROR])
                if REPLAY_END in headers:
                    if count < int(headers[REPLAY_END]):
                        raise Unavailable(f"{count} of {headers[REPLAY_END]} messages came; register to miss nothing.")
                    return
                count += 1
                try:
                    event = _EPISODE_DECODERS[headers[REPLAY_SUBJECT]](message.data)
                except InvalidEvent as error:
                    _log.warning("record %s is passed over: %s", headers[REPLAY_SEQ], error.message)
                else:
                    yield int(headers[REPLAY_SEQ]), event
        finally:
            await subscription.unsubscribe()

    async def publish(self, event: Event, *, stage: str = "", headers: Mapping[str, str] = NO_HEADERS) -> None:
        """Store an event in its stream, under the message id that its stage has; a second one is a duplicate, which the
        broker drops. ``stage`` is who publishes it, which matters of a guest.

        Raises:
            Unavailable: no receipt came: the broker is away or its storage is full.
            StageFailed: the event is larger than the broker takes.
        """
        data = encode_event(event, self.connection.max_payload)
        with translate_errors(f"{event.subject} was not stored"):
            subject, own_id = self.subjects.place(event, stage)
            await self.connection.jetstream().publish(subject, data, headers={**headers, MSG_ID: own_id})

    async def request(self, service: Service[Q, R], body: Q, *, timeout: float = TIMEOUT) -> R:
        """Send any request of the contract, to ``<prefix>.svc.<verb>``."""
        return await request(self.connection, self.subjects.service(service.verb), service, body, timeout=timeout)

    async def _subscribe(self, subject: str) -> Subscription:
        with translate_errors(f"cannot listen to {subject}"):
            return await self.connection.subscribe(subject)

    async def _take(self, answer: AnswerReady) -> None:
        """Have the answer recorded, before anybody gets it."""
        if answer.is_recorded:
            await self.publish(AnswerTaken(envelope=answer.envelope.next(AnswerTaken.subject)))
