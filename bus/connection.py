"""One connection to NATS, and what the packages above do with it: publish, signal, ask, request."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import anyio
import msgspec
import nats
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import APIError, NotFoundError

from bus import topology, tracing
from bus.cancellation import Cancellations
from bus.request import request
from bus.subjects import Subjects
from bus.turn import follow_turn, wait_for_answer
from schemas.chat import Message, Sampling
from schemas.codec import decode, encode
from schemas.envelope import Envelope
from schemas.errors import DeadlineExceeded, InvalidEvent, KikiError, Refused, StageFailed, Unavailable
from schemas.events import AnswerReady, Event, InferToken, TurnCancelled
from schemas.findings import AdapterUse, RecalledEpisode
from schemas.jobs import Job, JobResult, Lane

R = TypeVar("R", bound=msgspec.Struct)

MSG_ID = "Nats-Msg-Id"

WINDOW_SECONDS, PATIENCE_SECONDS = 0.25, 1.0
"""How long the answers of all instances are gathered: at least, and at most."""

LATE_SECONDS = 1.0
"""Seconds that a stage has after the deadline to report that it has passed."""
STREAM_FULL = 10077
"""The broker's code for a stream that takes no more messages."""

_log = structlog.get_logger("bus")


@dataclass(frozen=True, kw_only=True)
class BusSettings:
    """Where the broker is: one address, or several with commas between. The timeouts are seconds."""

    url: str = "nats://127.0.0.1:4222"
    prefix: str = "kiki"
    connect_timeout: float = 5.0
    publish_timeout: float = 5.0
    replicas: int = 1


class Bus:
    """A connection with our verbs. Made by :func:`connect`."""

    def __init__(self, client: Client, settings: BusSettings) -> None:
        self.client = client
        self.js: JetStreamContext = client.jetstream(timeout=settings.publish_timeout)
        self.settings = settings
        self.subjects = Subjects(settings.prefix)
        self.cancellations = Cancellations()

    async def publish(self, event: Event, *, msg_id: str | None = None) -> bool:
        """Store ``event`` in its stream and await the PubAck.

        Returns:
            Whether it is new: False when the same message id was stored before (de-duplicated).

        Raises:
            Unavailable: no PubAck came: the broker is away or its storage is full.
            Refused: the stream is a queue with an end, and it is full.
            StageFailed: the event is larger than the broker takes.
        """
        data = encode(event)
        if len(data) > self.client.max_payload:
            raise StageFailed(
                f"{event.subject} has {len(data)} bytes, the broker takes {self.client.max_payload}: "
                "shorten the conversation or raise max_payload.",
                code="context_length_exceeded",
            )
        headers = tracing.headers()
        headers[MSG_ID] = msg_id or _msg_id(event)
        try:
            ack = await self.js.publish(self.subjects.of(event), data, headers=headers)
        except APIError as error:
            if error.err_code == STREAM_FULL:
                raise Refused(f"the queue of {event.subject} is full: try again later.") from error
            raise Unavailable(f"{event.subject} was not stored: {error}.") from error
        except (TimeoutError, nats.errors.Error, OSError) as error:
            raise Unavailable(f"{event.subject} was not stored: {error or type(error).__name__}.") from error
        return not ack.duplicate

    async def publish_and_wait(self, event: Event) -> AnswerReady:
        """Publish an event of a turn and wait for the turn's answer, until its deadline.

        Raises:
            DeadlineExceeded: nobody said how it ended.
            KikiError: a stage gave the turn up, somebody cancelled it, or the broker is away.
        """
        envelope = event.envelope
        async with follow_turn(self.client, self.subjects, envelope.turn_id, kinds=()) as happenings:
            await self.publish(event)
            with anyio.move_on_after(envelope.remaining + LATE_SECONDS):
                return await wait_for_answer(happenings)
        raise DeadlineExceeded("the turn's deadline passed without a word.")

    async def signal(self, token: InferToken) -> None:
        """Publish a text delta on core NATS: delivered to who listens now, never stored."""
        await self.client.publish(self.subjects.of(token), encode(token))

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
        """One call to the model through JOBS, answered by whichever worker is free; the fields are :class:`Job`'s.

        Waits until ``timeout`` seconds or the turn's deadline, whichever is sooner.

        Raises:
            KikiError: the worker's refusal, with its public code.
            Unavailable: no answer came in time.
        """
        job_id = uuid.uuid4().hex
        inbox = self.client.new_inbox()
        wait = min(envelope.remaining, timeout if timeout is not None else envelope.remaining)
        subscription = await self.client.subscribe(inbox, max_msgs=1)
        try:
            await self.publish(
                Job(
                    envelope=envelope.next(f"job.{job_id}"),
                    job_id=job_id,
                    lane=lane,
                    reply=inbox,
                    messages=messages,
                    adapters=adapters,
                    sampling=sampling or Sampling(),
                    n=n,
                    choices=choices,
                    ballots=ballots,
                    recall=recall,
                    enhance=enhance,
                )
            )
            reply = await subscription.next_msg(timeout=max(0.01, wait))
        except (TimeoutError, nats.errors.TimeoutError) as error:
            raise Unavailable(f"the model did not answer a {lane} job within {wait:.1f} s.") from error
        finally:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()
        result = decode(JobResult, reply.data)
        if result.code is not None:
            raise KikiError(result.message, code=result.code, retryable=result.retryable)
        return result

    async def answer(self, job: Job, result: JobResult) -> None:
        """Send a job's result to who asked, and flush, so that it has left before the job is acknowledged."""
        await self.client.publish(job.reply, encode(result))
        await self.client.flush()

    async def flush(self) -> None:
        """Wait until the broker has all that was published and subscribed here before.

        nats-py writes the PING of its own ``flush`` before what waits in its buffer, which the first of two flushes
        writes, too.
        """
        await self.client.flush()
        await self.client.flush()

    async def request(self, verb: str, body: msgspec.Struct, reply: type[R], *, timeout: float) -> R:
        """Ask a service agent directly (``embed``, ``route``, ``status.<agent>``).

        Raises:
            Unavailable: nobody serves ``verb`` or no answer came within ``timeout`` seconds.
            KikiError: the agent's refusal.
        """
        subject = self.subjects.service(verb)
        return await request(self.client, subject, body, reply, timeout=timeout, headers=tracing.headers())

    async def gather(self, verb: str, reply: type[R], *, enough: Callable[[Sequence[R]], bool]) -> list[R]:
        """The answers to ``verb``, one from each instance.

        Listens for :data:`WINDOW_SECONDS`, and while the answers are not ``enough`` up to :data:`PATIENCE_SECONDS`:
        an instance on a busy machine may be slow to answer.
        """
        inbox = self.client.new_inbox()
        subscription = await self.client.subscribe(inbox)
        replies: list[R] = []
        now = asyncio.get_running_loop().time
        try:
            await self.client.publish(self.subjects.service(verb), b"", reply=inbox)
            sent_at = now()
            while (remaining := sent_at + (WINDOW_SECONDS if enough(replies) else PATIENCE_SECONDS) - now()) > 0:
                with contextlib.suppress(nats.errors.TimeoutError, asyncio.TimeoutError):
                    message = await subscription.next_msg(timeout=remaining)
                    if not (message.headers or {}).get("Status"):
                        replies.append(decode(reply, message.data))
        finally:
            await subscription.unsubscribe()
        return replies

    async def last(self, kind: type[R], turn_id: str, *, stream: str | None = None) -> R | None:
        """The last stored event of a kind in a turn, in the kind's own stream or in ``stream``; None without one."""
        subject: str = kind.subject  # type: ignore[attr-defined]
        message = await self._last_raw(stream or topology.stream_of(kind), self.subjects.stage(subject, turn_id))
        return decode(kind, message.data) if message and message.data else None

    async def last_of(
        self, kinds: Sequence[type[R]], turn_id: str, *, stream: str = topology.TURNS, direct: bool = False
    ) -> R | None:
        """The last stored event of several kinds that share their noun (``dissent.*``), in one question.

        With ``direct`` the answer is quicker and may be a replica's that lags behind: ask again where None is not
        believed.
        """
        by_subject = {self.subjects.stage(kind.subject, turn_id): kind for kind in kinds}  # type: ignore[attr-defined]
        (noun,) = {kind.subject.split(".")[0] for kind in kinds}  # type: ignore[attr-defined]
        message = await self._last_raw(stream, self.subjects.stage(f"{noun}.*", turn_id), direct=direct)
        return decode(by_subject[str(message.subject)], message.data) if message and message.data else None

    async def _last_raw(self, stream: str, subject: str, *, direct: bool = False) -> RawStreamMsg | None:
        """``direct`` is quicker; in a cluster the replica that answers may not have the newest yet."""
        try:
            return await self.js.get_last_msg(stream, subject, direct=direct)
        except NotFoundError:
            return None
        except (TimeoutError, nats.errors.Error, APIError) as error:
            raise Unavailable(f"cannot read {subject} from {stream}: {error or type(error).__name__}.") from error

    async def listen(self, subject: str, handle: Callable[[Msg], Awaitable[None]], *, queue: str = "") -> Subscription:
        """A core subscription behind a firewall: whatever escapes ``handle`` is logged and ends nothing.

        With a ``queue`` each message goes to one of those who listen under that name.
        nats-py ends a subscription without a word when its callback lets a CancelledError out.
        """

        async def handle_safely(message: Msg) -> None:
            try:
                await handle(message)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                _log.error("callback cancelled itself", subject=message.subject)
            except Exception:  # noqa: BLE001 - the firewall
                _log.exception("callback failed", subject=message.subject)

        return await self.client.subscribe(subject, queue=queue, cb=handle_safely)

    async def reconcile(self) -> None:
        """Create the streams that are missing.

        Raises:
            SetupError: one differs from its declaration.
        """
        await topology.reconcile_streams(self.js, topology.streams(self.subjects, replicas=self.settings.replicas))

    async def _hear_cancellations(self) -> None:
        async def cancel_turn(message: Msg) -> None:
            try:
                self.cancellations.cancel(decode(TurnCancelled, message.data).envelope.turn_id)
            except InvalidEvent as error:
                _log.warning("cancellation unreadable", subject=message.subject, error=error.message)

        await self.listen(self.subjects.stage(TurnCancelled.subject), cancel_turn)


@contextlib.asynccontextmanager
async def connect(settings: BusSettings, *, name: str) -> AsyncIterator[Bus]:
    """Connect, keep reconnecting for ever, and drain on the way out.

    Raises:
        Unavailable: the broker does not answer at start.
    """

    servers = [server.strip() for server in settings.url.split(",")]
    link = _Link(url=settings.url, patience=len(servers))
    try:
        client = await asyncio.wait_for(
            nats.connect(
                servers,
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
    except (TimeoutError, nats.errors.Error, OSError) as error:
        raise Unavailable(
            f"no NATS server answers at {settings.url} ({type(error).__name__}): "
            "start one with 'kiki up', or give its address with --nats."
        ) from error
    link.up = True
    bus = Bus(client, settings)
    try:
        await bus._hear_cancellations()
        yield bus
    finally:
        link.up = False
        with contextlib.suppress(nats.errors.Error, asyncio.TimeoutError, OSError):  # the broker may have gone first
            await asyncio.wait_for(client.close(), 2.0)


@dataclass
class _Link:
    """The callbacks of a connection: they log what happens to it while it is meant to be up.

    nats-py would try for ever to reach a first server; here the first attempt ends when every server has
    refused once, because somebody waits for a clear answer.
    """

    url: str
    patience: int
    up: bool = False

    async def report_failure(self, error: Exception) -> None:
        if self.up:
            _log.warning("bus error received", error=repr(error))
            return
        self.patience -= 1
        if self.patience <= 0:
            raise error

    async def report_loss(self) -> None:
        if self.up:
            _log.warning("broker lost", url=self.url)

    async def report_return(self) -> None:
        _log.info("broker returned", url=self.url)


def _msg_id(event: Event) -> str:
    """``<turn_id>:<stage>``: what makes a redelivered stage's result a duplicate."""
    if isinstance(event, Job):
        return f"{event.envelope.turn_id}:job.{event.job_id}"
    noun = event.subject.split(".")[0] if event.subject.startswith("dissent.") else event.subject
    return f"{event.envelope.turn_id}:{noun}"
