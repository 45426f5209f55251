"""An agent of another program: it reads a stage's events, publishes what it makes of them, and says how it is.

Needs nats-py and msgspec only, as :mod:`bus.client` does. It keeps the promises of the runtime's own agents
(:mod:`bus.handler`): a result is stored before its event is acknowledged, under the message id of its stage, and what
cannot be handled is tried again, then filed as a dead letter.
"""

import asyncio
import contextlib
import logging
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from nats.aio.msg import Msg
from nats.js.api import Header

from bus import topology
from bus.client import Client
from bus.errors import BROKER_ERRORS, NOT_FOUND, REJECTED, describe, is_away, translate_errors
from bus.guest_requests import RequestServer
from bus.handling.cancellation import Cancellations
from bus.handling.endpoint import Endpoint
from bus.handling.letter import KEEP_LETTERS, file_letter, tenant_of
from bus.handling.message import describe_place, failure_of_unreadable, read_event, retry_delay
from bus.storage.bucket import open_bucket, put_object
from bus.subjects import ANSWER_KINDS, Subjects
from schemas.codec import decode, encode
from schemas.errors import DeadlineExceeded, InvalidEvent, InvalidInput, KikiError, SetupError, StageFailed, Unavailable
from schemas.events import ENDS, Event, QueryReceived, TurnCancelled, failure
from schemas.findings import StageTiming
from schemas.status import StatusReply

E = TypeVar("E", bound=Event)

FETCH_SECONDS = 5.0
"""How long one pull request waits at the broker; a request that was lost with a connection is repeated after it."""

CHECK_SECONDS = 2.0
"""How often the agent looks whether the connection is open and the broker still has its consumer."""

PAUSE_SECONDS = 0.5
"""Seconds before what the broker refused is tried again."""

STEADY_SECONDS = 15.0
"""Seconds without a failure of the broker after which deliveries count again as tries."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_AWAY: tuple[type[Exception], ...] = (*BROKER_ERRORS, Unavailable)
_TRACE = ("traceparent", "tracestate")
"""The headers of a trace, which go on with the result."""

_log = logging.getLogger("micro_kiki_client")


class GuestAgent(Generic[E]):
    """An agent on the connection of a client.

    ``handle`` gets each event of the kind ``reads``, several at once, and returns the event to publish, or None. It is
    cancelled when the turn's deadline passes or the turn is cancelled. A :class:`KikiError` that is not retryable fails
    the turn; any other error is tried again after a growing delay, ``max_deliver`` times in all, and then the event
    becomes a dead letter and the turn fails.

    What returns the kind that it reads comes after that stage, as the runtime's settings must say (``after``); the
    agent finds there which guest is before it, and publishes under its own noun.

    Args:
        client: the connection. An agent that should outlive its broker's restarts has ``max_reconnect_attempts=-1``.
        name: of its durable consumer, its timing and its status; agents of one name share the events.
        reads: the kind of events that it reads; None for an agent that only answers requests.
        handle: what it makes of one.
        give_up: makes the event to publish in the place of ``turn.failed``, for an agent whose failure must not end the
            turn; None publishes nothing.
        endpoints: the requests that it answers.
        concurrency: events in hand at once.
        ack_wait: seconds without a heartbeat after which an event is delivered again.
        max_deliver: tries before the dead letter.
        retry_delay: seconds before the second try.

    Raises:
        InvalidInput: the name is none.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        reads: type[E] | None = None,
        handle: Callable[[E], Awaitable[Event | None]] | None = None,
        *,
        give_up: Callable[[E, KikiError], Event | None] | None = None,
        endpoints: Sequence[Endpoint] = (),
        concurrency: int = 8,
        ack_wait: float = 4.0,
        max_deliver: int = 5,
        retry_delay: float = 0.25,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise InvalidInput(f"an agent's name has letters, digits, '_' and '-': '{name}' is none.", param="name")
        if (reads is None) != (handle is None):
            raise InvalidInput("what reads events has a function that handles them.", param="handle")
        self.name = name
        self.counts: Counter[str] = Counter()
        """Events by what became of them: done, ended, cancelled, retried, failed, dead, unplaced, moved."""
        self._client = Client(client.connection, prefix=client.subjects.prefix)
        self._declared_with = self._client.subjects
        self._js = client.connection.jetstream()
        self._reads = reads
        self._handle = handle
        self._give_up = give_up
        self._requests = RequestServer(
            client.connection, client.subjects, agent=name, endpoints=endpoints, report=self.status
        )
        self._concurrency = concurrency
        self._ack_wait = ack_wait
        self._max_deliver = max_deliver
        self._retry_delay = retry_delay
        self._reconnects: int = client.connection.stats["reconnects"]
        self._failed_at = float("-inf")
        self._cancellations = Cancellations()
        self._in_hand: dict[int, Msg] = {}

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            Unavailable: the connection was closed.
            SetupError: the broker refuses the consumer, or the runtime's settings have the agent after another stage
                than the one that it reads.
        """
        if self._reads is not None:
            await self._declare(self._reads)
        try:
            cancelled = self._client.subjects.stage(TurnCancelled.subject)
            async with asyncio.TaskGroup() as tasks, self._requests.serve(tasks, {cancelled: self._cancel_turn}):
                _log.info("%s: ready", self.name)
                if self._reads is not None:
                    for _ in range(self._concurrency):
                        tasks.create_task(self._keep_pulling(self._reads))
                    tasks.create_task(self._beat())
                await self._watch()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    def status(self) -> StatusReply:
        """Ready, with the counts of its events."""
        gauges = {"in_hand": float(len(self._in_hand)), **{name: float(count) for name, count in self.counts.items()}}
        return StatusReply(agent=self.name, ready=True, gauges=gauges)

    def _stream(self, reads: type[E]) -> str:
        return self._client.subjects.stream(topology.stream_of(reads))

    async def _declare(self, reads: type[E]) -> None:
        """Make the durable consumer, or bring it to these settings; unless it moved it keeps its position. Waits for
        the broker."""
        is_waiting = False
        while True:
            self._require_connection()
            try:
                await self._read_guests()
                self._require_place(reads)
                await self._make_consumer(reads)
            except BROKER_ERRORS as error:
                self._note_failure()
                if isinstance(error, REJECTED) and not isinstance(error, NOT_FOUND) and not is_away(error):
                    raise SetupError(f"the broker refuses consumer {self.name}: {describe(error)}.") from error
                if not is_waiting:
                    _log.warning("%s: waits for the broker and its streams: %s", self.name, describe(error))
                is_waiting = True
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                return

    async def _read_guests(self) -> None:
        """Read from the broker who comes after which stage."""
        subjects = self._client.subjects
        info = await self._js.stream_info(subjects.stream(topology.TURNS))
        self._client.subjects = Subjects(subjects.prefix, topology.read_guests(info.config))

    def _require_place(self, reads: type[E]) -> None:
        """Raise a SetupError if this agent comes after another stage than the one that it reads."""
        for noun_verb, chain in self._client.subjects.guests.items():
            if self.name in chain and noun_verb != reads.subject:
                raise SetupError(
                    f"'{self.name}' reads {reads.subject}, and by the runtime's settings it comes after the stage that "
                    f"publishes {noun_verb}: read that, or change 'after' in [agents.{self.name}].",
                    param=f"agents.{self.name}.after",
                )

    async def _make_consumer(self, reads: type[E]) -> None:
        """One of an earlier place is made anew, for what it has not read may lie before its position."""
        subjects, stream = self._client.subjects, self._stream(reads)
        wanted = subjects.stage(subjects.input_of(self.name, reads.subject))
        with contextlib.suppress(NOT_FOUND):
            config = (await self._js.consumer_info(stream, self.name)).config
            (current, *others) = config.filter_subjects or [config.filter_subject or ""]
            verb = f".{reads.subject.partition('.')[2]}."
            if current != wanted and verb in current and not others:
                await self._js.delete_consumer(stream, self.name)
        config = topology.consumer(
            self.name,
            [wanted],
            ack_wait=self._ack_wait,
            max_ack_pending=topology.pending_limit(self._concurrency),
        )
        await self._js.add_consumer(stream, config)
        self._declared_with = subjects

    async def _watch(self) -> None:
        """Make the consumer again when its broker has lost it or the agent has another place, until the connection is
        closed."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self._require_connection()
            if self._reads is None:
                continue
            try:
                await self._read_guests()
                if self._client.subjects != self._declared_with:
                    await self._declare(self._reads)
                await self._js.consumer_info(self._stream(self._reads), self.name)
            except NOT_FOUND:
                await self._declare(self._reads)
            except BROKER_ERRORS as error:
                self._note_failure()
                _log.warning("%s: the broker does not answer: %s", self.name, describe(error))

    def _note_failure(self) -> None:
        self._failed_at = time.monotonic()

    def _was_broker_away(self) -> bool:
        """Whether the broker was away of late, so that deliveries that came to nothing are nobody's fault."""
        reconnects: int = self._client.connection.stats["reconnects"]
        if reconnects != self._reconnects:
            self._reconnects = reconnects
            self._note_failure()
        return time.monotonic() - self._failed_at < STEADY_SECONDS

    def _require_connection(self) -> None:
        if self._client.connection.is_closed:
            raise Unavailable("the connection was closed.")

    async def _cancel_turn(self, message: Msg) -> None:
        with contextlib.suppress(InvalidEvent):
            self._cancellations.cancel(decode(TurnCancelled, message.data).envelope.turn_id)

    async def _keep_pulling(self, reads: type[E]) -> None:
        """Take one message at a time, for ever."""
        while True:
            try:
                await self._pull(reads)
            except BROKER_ERRORS as error:
                self._note_failure()
                _log.warning("%s: its events cannot be read: %s", self.name, describe(error))
            except Exception:  # noqa: BLE001 - whatever it was, the agent must go on
                _log.exception("%s: an event was left for redelivery", self.name)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _pull(self, reads: type[E]) -> None:
        subscription = await self._js.pull_subscribe_bind(self.name, self._stream(reads))
        try:
            while True:
                try:
                    (message,) = await subscription.fetch(1, timeout=FETCH_SECONDS)
                except TimeoutError:
                    continue
                await self._receive(reads, message)
        finally:
            with contextlib.suppress(*BROKER_ERRORS):
                await subscription.unsubscribe()

    async def _beat(self) -> None:
        """Tell the broker of every event in hand, long before it would deliver it again."""
        while True:
            await asyncio.sleep(self._ack_wait / 3)
            for message in list(self._in_hand.values()):
                with contextlib.suppress(*BROKER_ERRORS):
                    await message.in_progress()

    async def _receive(self, reads: type[E], message: Msg) -> None:
        sequence = message.metadata.sequence.stream
        if sequence in self._in_hand:
            return  # delivered again while still in hand: the first delivery will acknowledge it
        self._in_hand[sequence] = message
        try:
            await self._process(reads, message)
        except _AWAY as error:
            _log.warning("%s: an event is left for redelivery: %s", self.name, describe(error))
        finally:
            del self._in_hand[sequence]

    async def _process(self, reads: type[E], message: Msg) -> None:
        attempt = message.metadata.num_delivered
        try:
            event = read_event(reads, message, self._client.subjects)
        except InvalidEvent as error:
            await self._bury(message, "malformed", error)
            await self._safely(self._report_malformed(reads, message, error))
            return
        if attempt > self._max_deliver and not self._was_broker_away():
            reason = f"{attempt - 1} deliveries to {self.name} came to nothing: whoever had them died. Ask again."
            await self._bury(message, "max_deliver", Unavailable(reason))
            await self._report_failure(event, Unavailable(reason))
        elif self._is_of_turn(event) and await self._has_ended(event.envelope.turn_id):
            await self._settle(message, "ended")
        elif self._is_of_turn(event) and event.envelope.remaining <= 0:
            await self._fail(message, event, DeadlineExceeded(f"the deadline passed before {self.name}."))
        else:
            await self._run_handler(message, event, attempt)

    def _is_of_turn(self, event: E) -> bool:
        """Whether the turn's end and deadline end the work; not for what is done after an answer."""
        return not isinstance(event, ANSWER_KINDS)

    async def _has_ended(self, turn_id: str) -> bool:
        if turn_id in self._cancellations:
            return True
        subjects = self._client.subjects
        try:
            first = await self._js.get_msg(
                subjects.stream(topology.ANSWERS), seq=1, subject=subjects.turn(turn_id), next=True
            )
        except NOT_FOUND:
            return False
        return first.subject in {subjects.stage(kind.subject, turn_id) for kind in ENDS}

    async def _run_handler(self, message: Msg, event: E, attempt: int) -> None:
        started_at = time.time()
        try:
            outcome = await self._await_handler(event)
            if isinstance(outcome, Event):
                timing = StageTiming(stage=self.name, started_at=started_at, finished_at=time.time(), attempt=attempt)
                if outcome.subject == event.subject and (why := await self._find_misplacement(message, event)):
                    if why == "unplaced":
                        _log.error("%s returns %s, %s", self.name, event.subject, describe_place(self.name))
                    await self._settle(message, why)
                    return
                outcome = add_timing(outcome, event, timing)
                await self._client.publish(outcome, stage=self.name, headers=_trace_of(message))
        except KikiError as error:
            if error.retryable and not isinstance(error, DeadlineExceeded):
                await self._retry(message, event, attempt, error)
            else:
                await self._fail(message, event, error)
        except Exception as error:  # noqa: BLE001 - a handler's bug is tried again, then buried
            _log.exception("%s: its handler failed", self.name)
            failed = StageFailed(f"{self.name} failed: {type(error).__name__}.", code="internal_error")
            await self._retry(message, event, attempt, failed)
        else:
            await self._settle(message, "cancelled" if event.envelope.turn_id in self._cancellations else "done")

    async def _find_misplacement(self, message: Msg, event: E) -> str:
        """Why what this agent returns is not to be published: ``unplaced`` when it does not come after the stage whose
        event it returns, ``moved`` when the settings have it read another subject than this event's by now, which it
        gets when its consumer is made anew; empty when all is well.

        Raises:
            Unavailable: the broker does not say.
        """
        try:
            with translate_errors(f"the place of {self.name} is not known"):
                await self._read_guests()
        except Unavailable:
            self._note_failure()
            raise
        subjects = self._client.subjects
        if self.name not in subjects.guests.get(event.subject, ()):
            return "unplaced"
        return "" if Subjects.kind(message.subject) == subjects.input_of(self.name, event.subject) else "moved"

    async def _await_handler(self, event: E) -> Event | None:
        """The handler's result; None when the turn was cancelled first."""
        assert self._handle is not None
        task = asyncio.ensure_future(self._handle(event))
        try:
            if not self._is_of_turn(event):
                return await task
            with self._cancellations.watch(event.envelope.turn_id, task.cancel):
                await asyncio.wait({task}, timeout=max(0.0, event.envelope.remaining))
            if not task.done():
                raise DeadlineExceeded(f"the deadline passed in {self.name}.")
            if task.cancelled():
                if event.envelope.turn_id in self._cancellations:
                    return None
                raise StageFailed(f"{self.name} cancelled itself.", code="internal_error", retryable=True)
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    async def _settle(self, message: Msg, outcome: str) -> None:
        self.counts[outcome] += 1
        await message.ack()

    async def _retry(self, message: Msg, event: E, attempt: int, error: KikiError) -> None:
        if attempt >= self._max_deliver and not self._was_broker_away():
            await self._bury(message, "max_deliver", error)
            await self._report_failure(event, error)
            return
        self.counts["retried"] += 1
        _log.warning("%s: try %d of turn %s: %s", self.name, attempt, event.envelope.turn_id, error.message)
        await message.nak(delay=retry_delay(attempt, self._retry_delay))

    async def _fail(self, message: Msg, event: E, error: KikiError) -> None:
        await self._report_failure(event, error)
        await self._settle(message, "failed")

    async def _bury(self, message: Msg, reason: str, error: KikiError) -> None:
        """File a dead letter, wait until it is stored, and only then end the message."""
        _log.error("%s: a message on %s is a dead letter: %s", self.name, message.subject, error.message)
        subjects = self._client.subjects
        subject = subjects.dead(self.name, tenant_of(message))
        await file_letter(
            self._js,
            subject,
            message,
            consumer=self.name,
            reason=f"{reason}: {error.message}",
            limit=self._client.connection.max_payload,
            store=self._store,
        )
        self.counts["dead"] += 1
        await message.term()
        with contextlib.suppress(*BROKER_ERRORS):  # letters beyond the tenant's share stay until the next one
            await self._js.purge_stream(subjects.stream(topology.DEAD), subject=subject, keep=KEEP_LETTERS)

    async def _store(self, payload: bytes) -> str:
        return await put_object(await open_bucket(self._js, self._client.subjects.prefix), payload)

    async def _report_failure(self, event: E, error: KikiError) -> None:
        """Tell who waits that no result comes; not of a turn that is answered."""
        if self._is_of_turn(event):
            await self._safely(self._publish_failure(event, error))

    async def _publish_failure(self, event: E, error: KikiError) -> None:
        report = failure(event.envelope, self.name, error) if self._give_up is None else self._give_up(event, error)
        if report is not None:
            await self._client.publish(report)

    async def _report_malformed(self, reads: type[E], message: Msg, error: InvalidEvent) -> None:
        """Fail the turn of a message that cannot be read. A question under a turn id that another question has taken
        before does not end that one's turn: only who listens now is told."""
        subjects = self._client.subjects
        failed = failure_of_unreadable(message, reads, self.name, error, subjects)
        if failed is None:
            return
        if issubclass(reads, QueryReceived):
            first = await self._js.get_msg(subjects.stream(topology.TURNS), seq=1, subject=message.subject, next=True)
            if first.seq < message.metadata.sequence.stream:
                headers = {Header.EXPECTED_STREAM.value: "none"}
                await self._client.connection.publish(subjects.of(failed), encode(failed), headers=headers)
                return
        await self._client.publish(failed)

    async def _safely(self, report: Awaitable[None]) -> None:
        """Await a report of what went wrong. Its own fault must not bring the message back for ever."""
        try:
            await report
        except Exception:  # noqa: BLE001 - who waits for the report sees the deadline pass
            _log.exception("%s: a failure was not reported", self.name)


def add_timing(outcome: Event, event: Event, timing: StageTiming) -> Event:
    """The outcome with the timings of the turn so far and the agent's own; unchanged where its kind has none."""
    if not isinstance(getattr(outcome, "timings", None), tuple):
        return outcome
    return msgspec.structs.replace(outcome, timings=(*getattr(event, "timings", ()), timing))


def _trace_of(message: Msg) -> dict[str, str]:
    headers: Mapping[str, Any] = message.headers or {}
    return {name: headers[name] for name in _TRACE if name in headers}
