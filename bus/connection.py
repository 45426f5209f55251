"""One connection to NATS, and what the packages above do with it: publish, signal, listen, request."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import Header, RawStreamMsg, StreamConfig

from bus import metrics, reconciliation, topology, tracing
from bus.access.address import read_address, without_login
from bus.access.login import NO_LOGIN, Login
from bus.background import Outage
from bus.deliveries import DeliveryClient
from bus.errors import (
    BROKER_ERRORS,
    NOT_FOUND,
    STREAM_FULL,
    code_of,
    explain_refusal,
    is_refusal,
    translate_errors,
)
from bus.handling.cancellation import Cancellations
from bus.handling.letter import KEEP_LETTERS
from bus.handling.message import encode_event
from bus.local_endpoints import LocalEndpoints
from bus.request import request
from bus.subjects import MSG_ID, Subjects
from bus.turn import ALL_KINDS, Kind, TurnEvents, follow_turn
from schemas.calls import Service
from schemas.chat import Message, Sampling
from schemas.codec import decode, encode
from schemas.envelope import Envelope
from schemas.errors import InvalidEvent, KikiError, Refused, SetupError, Unavailable
from schemas.events import AnswerReady, Event, Signal, TurnCancelled
from schemas.findings import AdapterUse, RecalledEpisode
from schemas.jobs import Job, JobResult, Lane

Q = TypeVar("Q", bound=msgspec.Struct | None)
R = TypeVar("R", bound=msgspec.Struct)

MIN_SERVER = (2, 10)
"""Oldest version of the NATS server: consumers with several filters came with it."""

_log = structlog.get_logger("bus")


@dataclass(frozen=True, kw_only=True)
class BusSettings:
    """Where the broker is: one address, or several with commas between; and who connects. The timeouts are seconds.

    Of one tenant alone an agent holds ``tenant_turns`` turns of ``tenant_bytes`` bytes at once, of several each has
    less (:mod:`bus.tenants.shares`); ``tenant_letters`` dead letters of each are kept by consumer.

    ``guests`` come after stages (:class:`bus.subjects.Subjects`). With ``debug`` the broker waits an hour before it
    delivers a message again whose handler says nothing, because it stands at a breakpoint.
    """

    url: str = field(default="nats://127.0.0.1:4222", repr=False)
    login: Login = NO_LOGIN
    prefix: str = "kiki"
    connect_timeout: float = 5.0
    publish_timeout: float = 5.0
    replicas: int = 1
    tenant_turns: int = 192
    tenant_bytes: int = 32 * 1024**2
    tenant_letters: int = KEEP_LETTERS
    guests: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    debug: bool = False


@dataclass(frozen=True)
class LiveMessage:
    """A message as it passes by on core NATS. ``reply`` is the subject for an answer; empty when none is awaited."""

    subject: str
    data: bytes
    reply: str
    headers: Mapping[str, str]


class Bus:
    """A connection with our verbs. Made by :func:`connect`. ``client`` and ``js`` are for the modules of this package.

    Verbs that say nothing of errors raise :class:`bus.errors.BrokerUnavailable` when the broker is away.
    """

    def __init__(self, client: Client, settings: BusSettings, outage: Outage) -> None:
        self.client = client
        self.js: JetStreamContext = client.jetstream(timeout=settings.publish_timeout)
        self.settings = settings
        self.subjects = Subjects(settings.prefix, settings.guests)
        self.cancellations = Cancellations()
        self.local_endpoints = LocalEndpoints()
        self.outage = outage

    @property
    def is_connected(self) -> bool:
        """Whether the broker is there now."""
        return bool(self.client.is_connected)

    @property
    def max_payload(self) -> int:
        """The most bytes that one message may have."""
        return int(self.client.max_payload)

    @property
    def broker_port(self) -> int | None:
        """The port of the server that the connection goes to; None while there is none."""
        url = self.client.connected_url
        return url.port if url else None

    async def publish(self, event: Event, *, msg_id: str | None = None, stage: str = "") -> bool:
        """Store ``event`` in its stream and await the PubAck. ``stage`` is who publishes it, which matters of a guest.

        Returns:
            Whether it is new: False when the same message id was stored before (de-duplicated).

        Raises:
            Unavailable: no PubAck came: the broker is away or its storage is full.
            Refused: the stream is a queue with an end, and it is full.
            StageFailed: the event is larger than the broker takes.
        """
        data = encode_event(event, self.max_payload)
        headers = tracing.headers()
        subject, own_id = self.subjects.place(event, stage)
        headers[MSG_ID] = msg_id or own_id
        with translate_errors(f"{event.subject} was not stored"):
            try:
                ack = await self.js.publish(subject, data, headers=headers)
            except BROKER_ERRORS as error:
                if code_of(error) == STREAM_FULL:
                    raise Refused(f"the queue of {event.subject} is full: try again later.") from error
                raise
        return not ack.duplicate

    async def publish_and_wait(self, event: Event) -> AnswerReady:
        """Publish an event of a turn and wait for the turn's answer, until its deadline.

        Raises:
            DeadlineExceeded: nobody said how it ended.
            KikiError: a stage gave the turn up, somebody cancelled it, or the broker is away.
        """
        async with self.follow(event.envelope, kinds=()) as happenings:
            await self.publish(event)
            return await happenings.answer()

    async def signal(self, signal: Signal) -> None:
        """Publish a signal on core NATS: delivered to who listens now, never stored."""
        await self.send(self.subjects.of(signal), encode(signal))

    async def send(self, subject: str, data: bytes = b"", *, headers: Mapping[str, str] | None = None) -> None:
        """Publish bytes on core NATS; :meth:`flush` waits until the broker has them."""
        with translate_errors(f"{subject} was not sent"):
            await self.client.publish(subject, data, headers=dict(headers or {}) or None)

    async def flush(self) -> None:
        """Wait until the broker has all that was published and subscribed here before.

        nats-py writes the PING of its own ``flush`` before what waits in its buffer, which the first of two flushes
        writes, too.
        """
        with translate_errors("the broker did not take what was sent"):
            await self.client.flush()
            await self.client.flush()

    def new_inbox(self) -> str:
        """A subject that nobody else listens to."""
        return str(self.client.new_inbox())

    def follow(
        self, envelope: Envelope, *, kinds: Sequence[Kind] = ALL_KINDS, awaited: bool = False
    ) -> AbstractAsyncContextManager[TurnEvents]:
        """The turn's events from now on, as :func:`bus.turn.follow_turn` gives them."""
        return follow_turn(self.client, self.subjects, envelope, kinds=kinds, awaited=awaited)

    async def ask(
        self,
        envelope: Envelope,
        *,
        lane: Lane,
        messages: tuple[Message, ...],
        adapters: tuple[AdapterUse, ...] = (),
        sampling: Sampling | None = None,
        n: int = 1,
        choices: tuple[str, ...] = (),
        ballots: tuple[tuple[Message, ...], ...] = (),
        recall: tuple[RecalledEpisode, ...] = (),
        enhance: bool = False,
        timeout: float | None = None,
    ) -> JobResult:
        """One call to the model, by the worker that takes it; the arguments are the fields of :class:`Job`.

        Waits for ``timeout`` seconds or until the turn's deadline, whichever is sooner.

        Raises:
            KikiError: the worker's refusal, with its public code.
            Unavailable: no answer came in time.
        """
        job_id = uuid.uuid4().hex
        job = Job(
            envelope=envelope.next(f"job.{job_id}"),
            job_id=job_id,
            lane=lane,
            reply=self.new_inbox(),
            messages=messages,
            adapters=adapters,
            sampling=sampling or Sampling(),
            n=n,
            choices=choices,
            ballots=ballots,
            recall=recall,
            enhance=enhance,
        )
        wait = min(envelope.remaining, timeout if timeout is not None else envelope.remaining)
        result = decode(JobResult, await self._publish_job(job, wait))
        if result.code is not None:
            raise KikiError(result.message, code=result.code, retryable=result.retryable)
        return result

    async def _publish_job(self, job: Job, seconds: float) -> bytes:
        with translate_errors(f"cannot listen for the answer to a {job.lane} job"):
            subscription = await self.client.subscribe(job.reply, max_msgs=1)
        try:
            await self.publish(job)
            with translate_errors(f"the model did not answer a {job.lane} job within {seconds:.1f} s"):
                reply: bytes = (await subscription.next_msg(timeout=max(0.01, seconds))).data
        finally:
            with contextlib.suppress(*BROKER_ERRORS):
                await subscription.unsubscribe()
        return reply

    async def answer(self, job: Job, result: JobResult) -> None:
        """Send a job's result, and flush, so that it has left before the job is acknowledged."""
        await self.send(job.reply, encode(result))
        await self.flush()

    async def announce(self, event: Event) -> None:
        """Publish an event to those who listen now, without storing it: for who asked in a turn that is not theirs."""
        await self.send(self.subjects.of(event), encode(event), headers={Header.EXPECTED_STREAM.value: "none"})

    async def request(self, service: Service[Q, R], body: Q, *, timeout: float) -> R:
        """Ask who serves a request of :mod:`schemas.calls`.

        An agent that serves it in this process on this bus is called; any other gets a message.

        Raises:
            Unavailable: nobody serves it or no answer came within ``timeout`` seconds.
            KikiError: the agent's refusal.
        """
        if service in self.local_endpoints:
            return await self.local_endpoints.request(service, body, timeout=timeout)
        subject = self.subjects.service(service.verb)
        return await request(self.client, subject, service, body, timeout=timeout, headers=tracing.headers())

    async def last(self, kind: type[R], turn_id: str, *, stream: str | None = None) -> R | None:
        """The last stored event of a kind in a turn, in the kind's own stream or in ``stream``; None without one."""
        subject: str = kind.subject  # type: ignore[attr-defined]
        message = await self._last_raw(stream or topology.stream_of(kind), self.subjects.stage(subject, turn_id))
        return decode(kind, message.data) if message and message.data else None

    async def _last_raw(self, stream: str, subject: str) -> RawStreamMsg | None:
        with translate_errors(f"cannot read {subject} from {stream}"):
            try:
                return await self.js.get_last_msg(self.subjects.stream(stream), subject)
            except NOT_FOUND:
                return None

    async def listen(
        self, subject: str, handle: Callable[[LiveMessage], Awaitable[None]], *, queue: str = ""
    ) -> Callable[[], Awaitable[None]]:
        """A core subscription behind a firewall: whatever escapes ``handle`` is logged and ends nothing.

        A message that cannot be read (``InvalidEvent``) is counted.

        With a ``queue`` each message goes to one of those who listen under that name. Returns what ends it.
        nats-py ends a subscription without a word when its callback lets a CancelledError out.
        """

        async def handle_safely(message: Msg) -> None:
            try:
                await handle(LiveMessage(message.subject, message.data, message.reply, message.headers or {}))
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                _log.error("callback cancelled itself", subject=message.subject)
            except InvalidEvent as error:
                metrics.count_degraded("bus.unreadable", f"{message.subject}: {error.message}")
            except Exception:  # noqa: BLE001 - the firewall
                _log.exception("callback failed", subject=message.subject)

        with translate_errors(f"cannot listen to {subject}"):
            subscription = await self.client.subscribe(subject, queue=queue, cb=handle_safely)

        async def stop() -> None:
            with contextlib.suppress(*BROKER_ERRORS):  # the connection is closed, and the subscription with it
                await subscription.unsubscribe()

        return stop

    async def reconcile(self) -> None:
        """Bring the streams to their declarations, as a process does when it starts to serve.

        Raises:
            SetupError: one differs so that an update would lose messages.
        """
        with translate_errors("the streams were not reconciled"):
            await reconciliation.reconcile_streams(self.js, self._streams())

    async def create_missing_streams(self) -> None:
        """Create the streams that are missing; whatever differs is left to who starts to serve.

        Raises:
            BrokerUnavailable: the broker is away.
        """
        with translate_errors("the missing streams were not created"):
            await reconciliation.create_missing_streams(self.js, self._streams())

    def _streams(self) -> tuple[StreamConfig, ...]:
        return topology.streams(self.subjects, replicas=self.settings.replicas)

    async def _cancel_turn(self, message: LiveMessage) -> None:
        self.cancellations.cancel(decode(TurnCancelled, message.data).envelope.turn_id)


@contextlib.asynccontextmanager
async def connect(settings: BusSettings, *, name: str, outage: Outage | None = None) -> AsyncIterator[Bus]:
    """Connect, keep reconnecting for ever, and drain on the way out. ``outage`` is shared by a process's connections.

    Raises:
        Unavailable: the broker does not answer at start.
        SetupError: it refuses the login, or this process its certificate; its URL is none, or a file of the login.
    """
    address, public_url, login = read_address(settings.url), without_login(settings.url), settings.login.options()
    link = _Link(url=public_url, patience=len(address.servers))
    client = DeliveryClient(partial(metrics.count_degraded, "bus.headers"))
    try:
        await asyncio.wait_for(
            client.connect(
                list(address.servers),
                **address.login,
                **login,
                name=name,
                connect_timeout=max(1, int(settings.connect_timeout)),
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.25,
                error_cb=link.report_failure,
                disconnected_cb=link.report_loss,
                reconnected_cb=link.report_return,
                ping_interval=10,
                max_outstanding_pings=3,
                pending_size=8 * 1024**2,
            ),
            settings.connect_timeout,
        )
    except BROKER_ERRORS as error:
        await _close(client)
        if link.refusal is not None:
            raise explain_refusal(link.refusal, settings.url) from error
        raise Unavailable(
            f"no NATS server answers at {public_url} ({type(error).__name__}): "
            "start one with 'kiki up', or give its address with --nats."
        ) from error
    link.starting, link.up = False, True
    await _refuse_old_server(client)
    bus = Bus(client, settings, outage or Outage())
    try:
        await bus.listen(bus.subjects.stage(TurnCancelled.subject), bus._cancel_turn)
        yield bus
    finally:
        link.up = False
        await _close(client)


async def _close(client: Client) -> None:
    with contextlib.suppress(*BROKER_ERRORS):  # the broker may have gone first
        await asyncio.wait_for(client.close(), 2.0)


async def _refuse_old_server(client: Client) -> None:
    """Raise SetupError when the server is older than what the streams and consumers need."""
    version = client.connected_server_version
    if (version.major, version.minor) < MIN_SERVER:
        await client.close()
        wanted, running = ".".join(map(str, MIN_SERVER)), f"{version.major}.{version.minor}"
        raise SetupError(f"the NATS server has version {running}: update it to {wanted} or later.", param="nats")


@dataclass
class _Link:
    """The callbacks of a connection: they log what happens to it while it is meant to be up.

    nats-py would try for ever to reach a first server; here the first attempt ends when every server has
    refused once, because somebody waits for a clear answer.
    """

    url: str
    patience: int
    starting: bool = True
    up: bool = False
    refusal: Exception | None = None
    lost: bool = False

    async def report_failure(self, error: Exception) -> None:
        if self.up and not self.lost:  # each try to connect again fails as long as all servers are away
            _log.warning("bus error received", error=repr(error))
        if self.starting:
            self.refusal = error if is_refusal(error) else self.refusal
            self.patience -= 1
            if self.patience <= 0:
                raise error

    async def report_loss(self) -> None:
        if self.up:
            _log.warning("broker lost", url=self.url)
        self.lost = True

    async def report_return(self) -> None:
        self.lost = False
        _log.info("broker returned", url=self.url)
