"""Turns that the facade follows: it admits and publishes them, listens to them, and cancels those without a client."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import anyio
import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

from bus import failpoints, metrics
from bus.connection import Bus
from bus.consumers import read_consumer
from bus.errors import BrokerUnavailable
from bus.storage.guard import StorageGuard
from bus.tenants.load import TenantLoad
from bus.topology import TURNS
from bus.turn import ALL_KINDS, Happening, TurnEvents, error_of
from bus.turns.events import find_end
from runtime.facade import metrics as telemetry
from runtime.facade.chat.idempotency import Claim, claim
from runtime.facade.chat.request import CheckedRequest
from runtime.facade.owner import Owner
from runtime.facade.settings import FacadeSettings
from runtime.limits import TOKEN_CHARACTERS, find_seconds
from schemas.codec import encode
from schemas.envelope import Envelope
from schemas.errors import DeadlineExceeded, InvalidStage, KikiError, Refused, Unavailable
from schemas.events import ENDS, AnswerReady, AnswerTaken, Event, QueryReceived, TurnCancelled, TurnFailed
from schemas.findings import Query

STORE_SECONDS = 0.005
"""Seconds before the stream is read again for an answer that was heard and is not stored yet; doubled each time."""

CANCEL_SECONDS = 1.0
"""Seconds for publishing that nobody waits for a turn any more."""

_log = structlog.get_logger("facade")
_tracer = trace.get_tracer("micro-kiki")


class FollowedTurn:
    """One turn as seen from the client's side."""

    def __init__(self, turns: "Turns", turn_claim: Claim, events: TurnEvents) -> None:
        self.envelope: Envelope = turn_claim.envelope
        self.outcome: str | None = None
        self.level: str | None = None
        self._turns = turns
        self._bus = turns.bus
        self._settings = turns.settings
        self._answer = turn_claim.answer
        self._read_end_first = turn_claim.running
        self._events = events
        self._unconfirmed = False
        self._away_since: float | None = None
        self._started = time.perf_counter()
        self._has_text = False

    @property
    def id(self) -> str:
        """The turn id."""
        return self.envelope.turn_id

    @property
    def seconds(self) -> float:
        """Seconds since the request."""
        return time.perf_counter() - self._started

    async def answer(self) -> AnswerReady:
        """Wait for the answer, which is taken then. Raises what :meth:`next` raises."""
        while True:
            event = await self.next()
            if isinstance(event, AnswerReady):
                return event

    async def next(self) -> Happening | None:
        """The turn's next event, or None when none came for ``poll_seconds``. Nothing follows an :class:`AnswerReady`.

        Raises:
            DeadlineExceeded: the turn's deadline passed.
            Unavailable: the broker lost the turn (``broker_lost``), or this facade stops.
            KikiError: a stage gave the turn up, or the turn was cancelled.
        """
        with self._turns.interruptible_scope() as scope:
            event = await self._next()
            if isinstance(event, AnswerReady):
                await self._take(event)
        if scope.cancelled_caught:
            raise self._with_outcome("stopped", Unavailable("the facade is stopping: ask again."))
        return self._check_event(event)

    async def _take(self, answer: AnswerReady) -> None:
        """Say that the client gets the answer: what a client got is recorded, and nothing else.

        Raises:
            Unavailable: the broker did not store it; the client asks again.
        """
        if not (answer.query.awaited and answer.is_recorded):
            return
        await failpoints.pass_window("answer.seen")
        try:
            await self._bus.publish(AnswerTaken(envelope=answer.envelope.next(AnswerTaken.subject)))
        except Refused as error:
            reason = f"the answer is there and cannot be recorded now ({error.message}): ask again with the same key."
            raise self._with_outcome("broker_lost", Unavailable(reason)) from error
        await failpoints.pass_window("answer.taken")

    def count_first_text(self, level: str) -> None:
        """Count the time to the first text, once."""
        if not self._has_text:
            self._has_text = True
            telemetry.FIRST_TOKEN_SECONDS.labels(level).observe(self.seconds)

    async def _next(self) -> Happening | None:
        if self._answer is not None:
            return self._answer
        if self._read_end_first:  # a turn that another request started may have ended before this one listened
            self._read_end_first = False
            if (event := await self._read_end()) is not None:
                return event
        wait = min(self._settings.poll_seconds, self.envelope.remaining)
        if wait <= 0:
            raise self._with_outcome("deadline", DeadlineExceeded("the turn's deadline passed before its answer."))
        with anyio.move_on_after(wait):
            if not self._unconfirmed:
                happening = await self._next_event()
                if not isinstance(happening, ENDS):
                    return happening
                self._unconfirmed = True
            return await self._wait_until_stored()
        return await self._read_end()

    async def _next_event(self) -> Happening | None:
        try:
            return await anext(self._events)
        except InvalidStage as error:
            metrics.count_degraded("facade.malformed", error.message)
            self._unconfirmed = self._events.ended
            return None

    async def _wait_until_stored(self) -> Event:
        """Wait until the stream holds the turn's end, and return that one: the first that is stored counts.

        The broker delivers a message before it has stored it. One that dies between the two forgets the answer, and a
        client that had it would find no trace of it in the record.
        """
        pause = STORE_SECONDS
        while (end := await self._find_end()) is None:
            await self._turns.storage.require()
            await anyio.sleep(pause)
            pause = min(2 * pause, self._settings.poll_seconds)
        return end

    async def _find_end(self) -> Event | None:
        try:
            return await find_end(self._bus, self.id)
        except InvalidStage as error:
            raise self._with_outcome("failed", error) from error
        except Unavailable as error:
            metrics.count_degraded("facade.poll", error.message)
            return None

    async def _read_end(self) -> Event | None:
        """Read the turn's end from the stream: its message may have been missed while this facade was disconnected."""
        if self._is_broker_away():
            return None
        if (end := await self._find_end()) is not None:
            return end
        try:
            is_lost = await self._bus.last(QueryReceived, self.id) is None
        except Unavailable as error:
            metrics.count_degraded("facade.poll", error.message)
            return None
        if is_lost:
            raise self._end_as_lost()
        return None

    def _is_broker_away(self) -> bool:
        if self._bus.is_connected:
            self._away_since = None
            return False
        now = time.monotonic()
        self._away_since = now if self._away_since is None else self._away_since
        if now - self._away_since >= self._settings.broker_grace:
            raise self._end_as_lost()
        return True

    def _check_event(self, event: Happening | None) -> Happening | None:
        if event is not None and (error := error_of(event)) is not None:
            raise self._with_outcome("failed" if isinstance(event, TurnFailed) else "cancelled", error)
        if isinstance(event, AnswerReady):
            self.outcome = "answered"
            self.level = event.route.plan.level
        return event

    def _end_as_lost(self) -> KikiError:
        return self._with_outcome(
            "broker_lost", Unavailable("the broker lost this turn before its answer: ask again.", code="broker_lost")
        )

    def _with_outcome(self, outcome: str, error: KikiError) -> KikiError:
        """``error``, after noting how the turn ended."""
        self.outcome = outcome
        return error


class Turns:
    """All turns of this facade: it limits their number, follows each, and ends them all when it stops."""

    def __init__(self, bus: Bus, settings: FacadeSettings) -> None:
        self.bus = bus
        self.settings = settings
        self.storage = StorageGuard(
            bus, directory=settings.broker_dir, monitor=settings.monitor_url, reserve=settings.disk_reserve
        )
        self.stopping = False
        self._load = TenantLoad(turns=settings.max_in_flight, size=bus.settings.tenant_bytes)
        self._followers: Counter[str] = Counter()
        self._scopes: set[anyio.CancelScope] = set()
        self._backlog = 0
        self._backlog_read = float("-inf")

    @property
    def in_flight(self) -> int:
        """Turns that are followed now, of all tenants."""
        return self._load.total

    def stop(self) -> None:
        """End every turn with a retryable refusal, and admit no other."""
        self.stopping = True
        for scope in self._scopes:
            scope.cancel()

    @asynccontextmanager
    async def follow(
        self,
        request: CheckedRequest,
        *,
        owner: Owner,
        session_id: str | None,
        key: str | None,
        context: Context | None = None,
    ) -> AsyncIterator[FollowedTurn]:
        """Publish the request's turn, or join it, and follow it.

        Leaving the context before the turn's end cancels the turn, unless another request of this facade follows it.

        ``context`` is the client's trace, which the turn's spans join.

        Raises:
            Refused: the tenant has too many turns at once (429).
            Unavailable: the broker is away, or too many turns are in the queue (503).
            KikiError: what :func:`runtime.facade.chat.idempotency.claim` raises.
        """
        with (
            self._admit(owner.tenant, len(encode(request.query))),
            _tracer.start_as_current_span("turn", context=context, kind=SpanKind.SERVER) as span,
        ):
            await self._refuse_backlog()
            turn_claim = await claim(
                self.bus,
                request.query,
                seed=request.seed,
                tenant=owner.tenant,
                user=owner.user,
                session_id=session_id,
                key=key,
                timeout=find_seconds(_count_characters(request.query), turn_timeout=self.settings.turn_timeout),
            )
            span.set_attribute("kiki.turn_id", turn_claim.envelope.turn_id)
            async with self._listen(turn_claim.envelope, tokens=request.stream) as events:
                turn = FollowedTurn(self, await self._publish(turn_claim), events)
                try:
                    yield turn
                finally:
                    await self._leave(turn, request)

    @contextmanager
    def interruptible_scope(self) -> Iterator[anyio.CancelScope]:
        """A scope that :meth:`stop` cancels."""
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                if self.stopping:
                    scope.cancel()
                yield scope
            finally:
                self._scopes.discard(scope)

    @contextmanager
    def _admit(self, tenant: str, size: int) -> Iterator[None]:
        if self.stopping:
            raise Unavailable("the facade is stopping: ask again.")
        if (excess := self._load.find_excess(tenant, size)) is not None:
            telemetry.TURNS.labels("none", "refused").inc()
            raise Refused(f"{excess} of yours are running, which is the limit: ask again in a moment.")
        telemetry.TURNS_IN_FLIGHT.inc()
        try:
            with self._load.hold(tenant, size):
                yield
        finally:
            telemetry.TURNS_IN_FLIGHT.dec()

    async def _refuse_backlog(self) -> None:
        """Raise when the broker is away or cannot store, or when too many turns wait for the worker."""
        if not self.bus.is_connected:
            raise Unavailable("the broker is away: ask again in a moment.", code="broker_lost")
        await self.storage.require()
        waiting = await self._count_waiting()
        if waiting > self.settings.max_queue:
            telemetry.TURNS.labels("none", "refused").inc()
            raise Unavailable(f"{waiting} turns wait for inference, which is over the limit: ask again later.")

    async def _count_waiting(self) -> int:
        """Turns that wait at the worker, read at most every ``queue_age`` seconds."""
        now = time.monotonic()
        if now - self._backlog_read < self.settings.queue_age:
            return self._backlog
        self._backlog_read = now
        try:
            consumer = await read_consumer(self.bus, TURNS, self.settings.queue_consumer)
            self._backlog = consumer.pending if consumer else 0  # the worker may never have run here; /ready says so
        except Unavailable as error:
            metrics.count_degraded("facade.backlog", error.message)
        return self._backlog

    async def _publish(self, turn_claim: Claim) -> Claim:
        if turn_claim.running or turn_claim.answer is not None:
            return turn_claim
        if await self.bus.publish(QueryReceived(envelope=turn_claim.envelope, query=turn_claim.query)):
            return turn_claim
        # Another request of the same key published first, after the claim was read: this request joins its turn.
        return Claim(envelope=turn_claim.envelope, query=turn_claim.query, running=True)

    @asynccontextmanager
    async def _listen(self, envelope: Envelope, *, tokens: bool) -> AsyncIterator[TurnEvents]:
        """The turn's events as they come; without ``tokens`` only those that end it."""
        async with AsyncExitStack() as stack:
            try:
                following = self.bus.follow(envelope, kinds=ALL_KINDS if tokens else (), awaited=True)
                events = await stack.enter_async_context(following)
            except BrokerUnavailable as error:
                raise Unavailable("the broker is away: ask again in a moment.", code="broker_lost") from error
            self._followers[envelope.turn_id] += 1
            try:
                yield events
            finally:
                self._followers[envelope.turn_id] -= 1
                if not self._followers[envelope.turn_id]:
                    del self._followers[envelope.turn_id]

    async def _leave(self, turn: FollowedTurn, request: CheckedRequest) -> None:
        is_last_follower = self._followers[turn.id] == 1
        if turn.outcome in (None, "stopped") and is_last_follower:
            await self._cancel(turn)
        level = turn.level or request.level
        telemetry.TURNS.labels(level, turn.outcome or "abandoned").inc()
        if turn.outcome == "answered":
            telemetry.TURN_SECONDS.labels(level).observe(turn.seconds)

    async def _cancel(self, turn: FollowedTurn) -> None:
        """Publish that nobody waits any more, so that every stage drops the turn, down to the decode step."""
        reason = "the facade stops" if turn.outcome == "stopped" else "the client disconnected"
        event = TurnCancelled(envelope=turn.envelope.next(TurnCancelled.subject), reason=reason, retryable=True)
        with anyio.move_on_after(CANCEL_SECONDS, shield=True):
            try:
                await self.bus.publish(event)
                _log.info("turn cancelled", turn_id=turn.id, reason=reason)
            except Unavailable as error:
                metrics.count_degraded("facade.cancel", error.message)


def _count_characters(query: Query) -> int:
    """Characters of the prompt; a token that was sent as its id counts as some."""
    tokens = query.continuation.tokens if query.continuation is not None else ()
    return sum(len(message.content) for message in query.messages) + TOKEN_CHARACTERS * len(tokens)
