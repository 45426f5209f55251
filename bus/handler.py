"""The one contract for consuming: decode, check, handle, publish, acknowledge.

A :class:`Handler` says what to read and which function handles it; :class:`Consumer` runs it:

1. decode; bytes that are not the promised event go to the dead letters at once, and the asker is told;
2. drop what has ended, fail what is past its deadline;
3. handle inside a cancel scope, sending the broker ``in_progress`` while it lasts, and as long as somebody waits;
4. publish the result (de-duplicated by message id), await the PubAck, then ack;
5. a transient error is tried again after a jittered delay, until ``max_deliver``; then a dead letter.

Concurrency is a number of slots. Each slot is one task with its own pull subscription that takes one message
at a time, so the bound needs no bookkeeping and back-pressure stays in the broker.

A fair handler has more slots than messages that it handles at once: a message waits in its slot until it is its
tenant's turn (:mod:`bus.tenants.queue`), and another slot pulls meanwhile: no tenant stands in another one's way.
"""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import anyio
import anyio.abc
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import Header, StatusCode

from bus import dead_letters, failpoints, metrics, reconciliation, sharing, topology, tracing
from bus.background import keep_running
from bus.connection import Bus
from bus.errors import BROKER_ERRORS, NOT_FOUND, translate_errors
from bus.handling.message import describe_place, read_event, retry_delay
from bus.tenants.queue import TenantQueue
from bus.tenants.shares import find_most
from bus.turns.awaiting import cancel_abandoned
from bus.turns.events import find_end
from bus.turns.unreadable import report_malformed
from schemas.envelope import Envelope
from schemas.errors import DeadlineExceeded, InvalidEvent, InvalidStage, KikiError, Refused, StageFailed, Unavailable
from schemas.events import Event, failure
from schemas.findings import StageTiming

E = TypeVar("E", bound=Event)
T = TypeVar("T")

NEXT = "$JS.API.CONSUMER.MSG.NEXT"
"""Where a pull request for a consumer's next message goes, followed by the stream and the consumer."""

FETCH_SECONDS = 20.0
"""How long one pull request waits at the broker. Every request that ends in vain wakes two processes."""

CHECK_SECONDS = 5.0
"""How often a consumer looks whether the broker still knows it, and whether its slots still pull."""

ANSWER_FACTOR = 1.25
"""The broker ends a pull request itself; one without any answer for this many fetch times was lost."""

STALL_FACTOR = 2.0
"""A slot that has not come back to its pull for this many fetch times has stopped and is brought back."""

DEBUG_ACK_WAIT = 3600.0
"""Seconds that a silent handler has where the settings say ``debug``: a breakpoint stops the heartbeats, too."""

AWAY: tuple[type[Exception], ...] = (*BROKER_ERRORS, Unavailable)

_log = structlog.get_logger("bus")


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What a handler may know of its message besides the event: the connection, the try, two Unix times, its place.

    It came at ``received_at``; the stream has had it since ``stored_at``, as its message ``seq``.
    """

    bus: Bus
    attempt: int
    received_at: float
    stored_at: float = 0.0
    seq: int = 0

    def timing(self, stage: str, *, compute: float = 0.0, ahead: float = 0.0) -> StageTiming:
        """The stage's share of the turn, which ends now: model and embedding time in it, and embedding before it."""
        return StageTiming(
            stage=stage,
            started_at=self.received_at,
            finished_at=time.time(),
            compute=compute,
            ahead=ahead,
            attempt=self.attempt,
        )


@dataclass(frozen=True, kw_only=True)
class Handler(Generic[E]):
    """What to read, and the function that handles it.

    Attributes:
        stage: names the durable consumer, the metrics and the timings.
        event: the struct that the subject promises.
        handle: returns the event to publish, or None when there is nothing to publish.
        filters: subjects; the event's own stage subject when empty.
        concurrency: messages in hand at once.
        fair: whether tenants share the slots; what a tenant sends beyond its share is refused with ``queue_full``.
        shared: whether processes share the messages by what each has in hand (:mod:`bus.sharing`).
        in_order: whether the next message waits until this one is settled, tries included; for a concurrency of 1.
        ack_wait: seconds after which a silent handler's message is delivered again.
        max_deliver: tries before the dead letter; those while the broker comes and goes do not count.
        until_deadline: whether the turn's deadline and cancellation end the work (not so for the record).
        outlasts: whether a message stays in hand while the broker is away, instead of using up its tries.
        give_up: tells who waits that no result will come; publishes ``turn.failed`` when None.
    """

    stage: str
    event: type[E]
    handle: Callable[[E, Delivery], Awaitable[Event | None]]
    stream: str = topology.TURNS
    filters: tuple[str, ...] = ()
    concurrency: int = 8
    fair: bool = False
    shared: bool = False
    in_order: bool = False
    ack_wait: float = 4.0
    max_deliver: int = 5
    retry_delay: float = 0.25
    until_deadline: bool = True
    outlasts: bool = False
    give_up: Callable[[E, KikiError], Awaitable[None]] | None = None


@dataclass
class _Held:
    """A message in hand, with its event once it is decoded."""

    message: Msg
    slot: "_Slot"
    event: Event | None = None


@dataclass
class _Slot:
    """One of the tasks that take messages. ``active``: it pulls or handles one; else it waits for its turn."""

    number: int
    rank: int = -1
    pulled_at: float = field(default_factory=time.monotonic)
    busy: bool = True
    active: bool = False
    scope: anyio.CancelScope | None = None


class Consumer(Generic[E]):
    """Runs one handler until cancelled."""

    def __init__(
        self,
        bus: Bus,
        handler: Handler[E],
        *,
        fetch_seconds: float = FETCH_SECONDS,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        self.bus = bus
        self.handler = handler
        self.fetch_seconds = fetch_seconds
        self.check_seconds = check_seconds
        self._config = topology.consumer(
            handler.stage,
            list(handler.filters) or [bus.subjects.stage(bus.subjects.input_of(handler.stage, handler.event.subject))],
            ack_wait=max(handler.ack_wait, DEBUG_ACK_WAIT if bus.settings.debug else 0.0),
            max_ack_pending=1
            if handler.in_order
            else topology.pending_limit(handler.concurrency, slots=self._count_slots()),
        )
        self._ack_wait = handler.ack_wait
        self._slots = [_Slot(number) for number in range(self._count_slots())]
        self._active = anyio.Semaphore(find_most(handler.concurrency) + 1 if handler.fair else handler.concurrency)
        self._tenants = TenantQueue(
            places=handler.concurrency, messages=bus.settings.tenant_turns, size=bus.settings.tenant_bytes
        )
        self._in_hand: dict[int, _Held] = {}
        self._stream = bus.subjects.stream(handler.stream)
        self._in_flight = metrics.IN_FLIGHT.labels(handler.stage)
        self._binding = anyio.Lock()
        self._began = time.time()

    def _count_slots(self) -> int:
        most = find_most(self.bus.settings.tenant_turns) if self.handler.fair else 0
        return max(self.handler.concurrency, most)

    @property
    def in_hand(self) -> int:
        """Messages being handled now."""
        return len(self._in_hand)

    async def declare(self) -> None:
        """Bring the durable consumer to the handler's settings; it keeps its position.

        Raises:
            SetupError: it exists with other settings, and an update would lose messages.
        """
        with translate_errors(f"consumer {self.handler.stage} was not reconciled"):
            await reconciliation.reconcile_consumer(self.bus.js, self._stream, self._config)
            await self._share()

    async def _share(self) -> None:
        if self.handler.shared:
            await sharing.prioritize(self.bus.client, self._stream, self.handler.stage)

    async def run(self) -> None:
        """Serve all slots, with a watchdog over them and a heartbeat for what is in hand."""
        async with anyio.create_task_group() as tasks:
            for slot in self._slots:
                tasks.start_soon(self._keep_pulling, slot)
            tasks.start_soon(keep_running, "consumer.watch", self._watch_slots)
            tasks.start_soon(keep_running, "consumer.beat", self._beat)
            tasks.start_soon(keep_running, "consumer.askers", cancel_abandoned, self.bus, self._list_awaited)

    async def _keep_pulling(self, slot: _Slot) -> None:
        """One slot for ever: whatever ends its pull loop is counted and the loop begins again."""
        while True:
            slot.pulled_at = time.monotonic()
            with anyio.CancelScope() as slot.scope:
                try:
                    await self._pull(slot)
                except asyncio.CancelledError:
                    if not _is_self_cancelled():
                        raise
                    _log.error("slot cancelled itself", stage=self.handler.stage)
                except Exception as error:  # noqa: BLE001 - whatever it was, the slot must go on
                    _log.warning("subscription ended", stage=self.handler.stage, slot=slot.number, error=repr(error))
            metrics.RESTARTED.labels(self.handler.stage).inc()
            await anyio.sleep(random.uniform(0.1, 0.4))

    async def _watch_slots(self) -> None:
        """Bring back the slots that stopped, and all of them when the broker has forgotten what they asked for."""
        reconnects = self._reconnects
        while True:
            await anyio.sleep(self.check_seconds)
            if not self.bus.client.is_connected:
                continue
            bindings_lost = not await self._ensure_declared() or self._reconnects != reconnects
            reconnects = self._reconnects
            for slot in self._slots:
                if slot.busy or slot.scope is None:
                    continue
                idle = time.monotonic() - slot.pulled_at
                if idle > STALL_FACTOR * self.fetch_seconds:
                    _log.error("slot stalled", stage=self.handler.stage, slot=slot.number, seconds=round(idle, 1))
                    slot.scope.cancel()
                elif bindings_lost:
                    slot.scope.cancel()

    @property
    def _reconnects(self) -> int:
        count: int = self.bus.client.stats["reconnects"]
        return count

    async def _pull(self, slot: _Slot) -> None:
        """Take one message at a time, until a request is lost or the broker ends it otherwise than by its time.

        A consumer that is deleted ends its requests, and one that is declared again does not know the old ones:
        whoever kept waiting would miss its first messages.
        """
        inbox: Subscription | None = None
        try:
            while True:
                await self._activate(slot)
                slot.pulled_at, slot.busy = time.monotonic(), False
                inbox = inbox or await self._bind()
                slot.rank = sharing.find_rank({other.rank for other in self._slots if other is not slot})
                try:
                    message = await self._request_message(inbox, slot.rank)
                except TimeoutError:
                    return
                finally:
                    slot.busy = True
                status = (message.headers or {}).get(Header.STATUS)
                if status is None:
                    await self._receive(message, slot)
                elif status != StatusCode.REQUEST_TIMEOUT:
                    return
        finally:
            slot.rank = -1
            self._deactivate(slot)
            if inbox is not None:
                with contextlib.suppress(*BROKER_ERRORS):
                    await inbox.unsubscribe()

    async def _activate(self, slot: _Slot) -> None:
        if not slot.active:
            await self._active.acquire()
            slot.active = True

    def _deactivate(self, slot: _Slot) -> None:
        """Let another slot pull in this one's place."""
        if slot.active:
            slot.active = False
            self._active.release()

    async def _bind(self) -> Subscription:
        """An inbox of the slot's own, once the broker has the consumer. One slot at a time asks the broker for it."""

        async def create_missing() -> None:
            with translate_errors(f"consumer {self.handler.stage} cannot be read"):
                if await reconciliation.create_missing_consumer(self.bus.js, self._stream, self._config):
                    await self._share()

        async with self._binding:
            await self.bus.outage.wait(create_missing)
        return await self.bus.client.subscribe(self.bus.client.new_inbox())

    async def _request_message(self, inbox: Subscription, rank: int) -> Msg:
        """The answer to one pull request: a message, or the status with which the broker ends the request.

        nats-py's ``fetch`` waits its full time though the broker has ended the request.

        Raises:
            TimeoutError: no answer came; the request was lost.
        """
        request: dict[str, Any] = {"batch": 1, "expires": int(self.fetch_seconds * 1e9)}
        if self.handler.shared:  # a consumer without priorities passes the two over
            request |= {"group": sharing.GROUP, "priority": sharing.priority_of(rank)}
        subject = f"{NEXT}.{self._stream}.{self.handler.stage}"
        await self.bus.client.publish(subject, json.dumps(request).encode(), reply=inbox.subject)
        return await inbox.next_msg(timeout=ANSWER_FACTOR * self.fetch_seconds)

    async def _ensure_declared(self) -> bool:
        """Whether the broker still has the consumer; if not, it is made again, with the streams that are missing.

        A memory stream is lost when its broker restarts, and the consumer with it. What exists is left as it is:
        another process may have started since with other settings, and the last one decides.
        """
        try:
            info = await self.bus.js.consumer_info(self._stream, self.handler.stage)
        except NOT_FOUND:
            await self.bus.create_missing_streams()
            await reconciliation.create_missing_consumer(self.bus.js, self._stream, self._config)
            await self._share()
            return False
        except BROKER_ERRORS as error:
            self.bus.outage.note_failure(error)
            for slot in self._slots:
                slot.pulled_at = time.monotonic()  # none stalls as long as there is nothing to pull from
        else:
            self.bus.outage.note_success()
            self._ack_wait = info.config.ack_wait or self.handler.ack_wait
        return True

    async def _receive(self, message: Msg, slot: _Slot) -> None:
        sequence = message.metadata.sequence.stream
        if sequence in self._in_hand:
            return  # delivered again while still in hand: the first delivery will acknowledge it
        self._in_hand[sequence] = held = _Held(message, slot)
        self._in_flight.inc()
        try:
            await failpoints.pass_window("delivery.taken")
            await self._process(held)
        except AWAY as error:
            metrics.HANDLED.labels(self.handler.stage, "bus_error").inc()
            _log.warning("message left for redelivery", stage=self.handler.stage, error=repr(error))
        finally:
            self._in_flight.dec()
            del self._in_hand[sequence]
            structlog.contextvars.clear_contextvars()  # what the slot logs next is not of this turn

    async def _process(self, held: _Held) -> None:
        handler, message = self.handler, held.message
        structlog.contextvars.clear_contextvars()
        attempt = message.metadata.num_delivered
        if attempt > 1:
            metrics.REDELIVERED.labels(handler.stage).inc()
        try:
            event = read_event(handler.event, message, self.bus.subjects)
        except InvalidEvent as error:
            await self._bury(message, "malformed", error)
            await self._firewall(report_malformed(self.bus, message, handler.event, handler.stage, error))
            return
        held.event, envelope = event, event.envelope
        structlog.contextvars.bind_contextvars(
            turn_id=envelope.turn_id, session_id=envelope.session_id, stage=handler.stage
        )
        with tracing.trace_handling(handler.stage, message.headers, turn_id=envelope.turn_id, attempt=attempt):
            if attempt > handler.max_deliver and not self.bus.outage.lasts:
                reason = (
                    f"{attempt - 1} deliveries to {handler.stage} came to nothing: whoever had them died. Ask again."
                )
                await self._give_up(message, event, "max_deliver", Unavailable(reason))
            elif await self._has_ended(event, is_new=attempt == 1 and self._is_newer_than_this(message)):
                await self._settle(message, "ended")
            elif handler.until_deadline and envelope.remaining <= 0:
                await self._fail(message, event, DeadlineExceeded(f"the deadline passed before {handler.stage}."))
            elif handler.fair:
                await self._run_in_turn(message, event, attempt)
            else:
                await self._run_handler(message, event, attempt)

    async def _run_in_turn(self, message: Msg, event: E, attempt: int) -> None:
        """Handle the message when it is its tenant's turn; refuse it when the tenant has its share in hand. What was
        taken once is not refused when it comes again."""
        tenant, size = event.envelope.tenant, len(message.data)
        if attempt == 1:
            try:
                self._tenants.require_room(tenant, size)
            except Refused as refusal:
                await self._report_failure(event, refusal)
                await self._settle(message, "refused")
                return
        with self._tenants.hold(tenant, size):
            await self._run_handler(message, event, attempt)

    def _is_newer_than_this(self, message: Msg) -> bool:
        """Whether this process has listened since before the message was stored, and so heard if its turn ended."""
        return bool(message.metadata.timestamp.timestamp() > self._began)

    async def _has_ended(self, event: E, *, is_new: bool) -> bool:
        """Whether the event's turn has ended. A new consumer reads turns of the last hour, and a restarted process did
        not hear what ended before it was born."""
        if not self.handler.until_deadline:
            return False
        turn_id = event.envelope.turn_id
        if turn_id in self.bus.cancellations:
            return True
        try:
            return not is_new and await find_end(self.bus, turn_id) is not None
        except InvalidStage:
            return True

    async def _run_handler(self, message: Msg, event: E, attempt: int) -> None:
        handler, started = self.handler, time.time()
        metadata = message.metadata
        delivery = Delivery(
            bus=self.bus,
            attempt=attempt,
            received_at=started,
            stored_at=metadata.timestamp.timestamp(),
            seq=metadata.sequence.stream,
        )
        try:
            outcome = await self._handle(event, delivery)
            if isinstance(outcome, Event) and not self._is_unplaced(event, outcome):
                await self._outlast(partial(self.bus.publish, outcome, stage=handler.stage))
        except asyncio.CancelledError as cancellation:
            if not _is_self_cancelled():
                raise
            await self._retry(message, event, attempt, cancellation)
        except KikiError as error:
            if error.retryable and not isinstance(error, DeadlineExceeded):
                await self._retry(message, event, attempt, error)
            else:
                await self._fail(message, event, error)
        except Exception as error:  # noqa: BLE001 - a handler's bug is tried again, then buried
            _log.exception("handler failed", attempt=attempt)
            await self._retry(message, event, attempt, error)
        else:
            metrics.STAGE_SECONDS.labels(handler.stage).observe(time.time() - started)
            await failpoints.pass_window("delivery.published")
            await self._settle(message, "cancelled" if outcome is CANCELLED else "done")

    def _is_unplaced(self, event: E, outcome: Event) -> bool:
        """Whether the outcome is what it was made of, from a guest that comes after no stage: the event is there, so
        nobody would ever read this one."""
        stage, noun_verb = self.handler.stage, event.subject
        is_unplaced = outcome.subject == noun_verb and stage not in self.bus.subjects.guests.get(noun_verb, ())
        if is_unplaced:
            metrics.count_degraded("guest.unplaced", f"{stage} returns {noun_verb}, {describe_place(stage)}")
        return is_unplaced

    async def _handle(self, event: E, delivery: Delivery) -> "Event | _Cancelled | None":
        """The handler's result, or CANCELLED when the turn ended first."""
        handler = self.handler
        if not handler.until_deadline:
            return await self._outlast(partial(handler.handle, event, delivery))
        finished, outcome = False, None
        limit = anyio.current_time() + event.envelope.remaining
        cancellations, turn_id = self.bus.cancellations, event.envelope.turn_id
        with anyio.CancelScope(deadline=limit) as scope, cancellations.watch(turn_id, scope.cancel):
            async with self._take_place(event, delivery) if handler.fair else contextlib.nullcontext():
                outcome, finished = await handler.handle(event, delivery), True
        if finished:
            return outcome
        if turn_id in cancellations:
            return CANCELLED
        raise DeadlineExceeded(f"the deadline passed in {handler.stage}.")

    def _take_place(self, event: E, delivery: Delivery) -> AbstractAsyncContextManager[None]:
        slot = self._in_hand[delivery.seq].slot
        return self._tenants.take_place(event.envelope.tenant, on_wait=partial(self._deactivate, slot))

    async def _outlast(self, step: Callable[[], Awaitable[T]]) -> T:
        """What ``step`` gives; repeated while the broker is away, where the handler outlasts that."""
        return await (self.bus.outage.wait(step) if self.handler.outlasts else step())

    async def _beat(self) -> None:
        """Tell the broker of every message in hand, long before it would deliver it again."""
        while True:
            await anyio.sleep(min(self._ack_wait / 3, self.check_seconds))
            for message in [held.message for held in self._in_hand.values() if not held.message.is_acked]:
                with contextlib.suppress(*BROKER_ERRORS):  # the broker is away; redelivery will tell
                    await message.in_progress()

    def _list_awaited(self) -> list[Envelope]:
        """Envelopes of the events in hand whose askers say for how long they wait."""
        events = [held.event for held in self._in_hand.values() if held.event is not None]
        return [event.envelope for event in events if getattr(getattr(event, "query", None), "awaited", False)]

    async def _settle(self, message: Msg, outcome: str) -> None:
        metrics.HANDLED.labels(self.handler.stage, outcome).inc()
        await message.ack()

    async def _retry(self, message: Msg, event: E, attempt: int, error: BaseException) -> None:
        handler = self.handler
        if attempt >= handler.max_deliver and not self.bus.outage.lasts:
            if not isinstance(error, KikiError):
                error = StageFailed(f"{handler.stage} failed: {type(error).__name__}.", code="internal_error")
            await self._give_up(message, event, "max_deliver", error)
            return
        metrics.HANDLED.labels(handler.stage, "retried").inc()
        delay = retry_delay(attempt, handler.retry_delay)
        _log.warning("message will be retried", attempt=attempt, delay=round(delay, 2), error=str(error) or repr(error))
        await message.nak(delay=delay)

    async def _fail(self, message: Msg, event: E, error: KikiError) -> None:
        """An expected refusal: tell who waits; the message itself is not at fault."""
        await self._report_failure(event, error)
        await self._settle(message, "failed")

    async def _give_up(self, message: Msg, event: E, reason: str, error: KikiError) -> None:
        await self._bury(message, reason, error)
        await self._report_failure(event, error)

    async def _report_failure(self, event: E, error: KikiError) -> None:
        _log.warning("stage gave up", code=error.code, error=error.message)
        await self._firewall(self._tell_failure(event, error))

    async def _firewall(self, report: Awaitable[None]) -> None:
        """Await a report of what went wrong. Its own fault must not bring the message back for ever."""
        try:
            await report
        except Exception as error:  # noqa: BLE001 - who waits for the report sees the deadline pass
            metrics.count_degraded("consumer.report", repr(error))

    async def _tell_failure(self, event: E, error: KikiError) -> None:
        if self.handler.give_up is not None:
            await self.handler.give_up(event, error)
            return
        if not self.handler.until_deadline:
            return  # the turn was answered; only its record failed, and the dead letter says so
        await self.bus.publish(failure(event.envelope, self.handler.stage, error))

    async def _bury(self, message: Msg, reason: str, error: KikiError) -> None:
        stage = self.handler.stage
        metrics.DEAD.labels(stage, reason).inc()
        metrics.HANDLED.labels(stage, "dead").inc()
        _log.error("message buried", stage=stage, reason=reason, subject=message.subject, error=error.message)
        await dead_letters.bury(self.bus, message, consumer=stage, reason=f"{reason}: {error.message}")


class _Cancelled:
    """The turn was cancelled while its handler ran."""


CANCELLED = _Cancelled()


def _is_self_cancelled() -> bool:
    """Whether the CancelledError at hand came out of the handler and not from whoever owns this task."""
    task = asyncio.current_task()
    return task is not None and not task.cancelling()
