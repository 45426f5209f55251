"""Memory on the bus: recall before the answer, the record after it, the projections from the record."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import nats.errors
import structlog
from nats.js.errors import APIError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from agents.memory.episodes import key, recorded
from agents.memory.forgetting import erase, expire
from agents.memory.priority import Precedence
from agents.memory.progress import PROJECTION, caught_up, forget, lag, progress
from agents.memory.projection import Projection
from agents.memory.ranking import distinct, fitting, hits, relevant, told
from agents.memory.rebuild import renewed
from agents.memory.search import find
from agents.memory.settings import MemorySettings
from agents.memory.sleep import sleep
from agents.memory.smalltalk import is_small_talk
from agents.memory.stores.errors import StoreAway
from agents.memory.stores.pair import Stores
from agents.memory.stores.points import Ask
from agents.memory.tokens import measure
from agents.memory.words import Words
from bus import metrics, record
from bus.agent import Endpoint
from bus.connection import Bus
from bus.handler import Consumer, Delivery, Handler
from bus.topology import ANSWERS, EPISODES, TURN_MAX_AGE
from schemas.errors import KikiError, Refused, Unavailable
from schemas.events import AnswerReady, EpisodeForgotten, EpisodeRecorded, QueryRouted, RecallDone
from schemas.findings import Recall, StageTiming
from schemas.memory import (
    ForgetReply,
    ForgetRequest,
    RebuildReply,
    RebuildRequest,
    SearchReply,
    SearchRequest,
    SessionReply,
    SessionRequest,
    SleepReply,
    SleepRequest,
    StatsReply,
    StatsRequest,
    VerifyReply,
    VerifyRequest,
)
from schemas.status import StatusReply

STAGE = "memory"
WRITE = "memory-write"
EXPIRY_SECONDS = 60.0
"""Seconds between two looks for answers that are old enough to go."""

AWAY_SECONDS = 5.0
"""Seconds at most between two tries to reach a store's server that is away."""

_log = structlog.get_logger("memory")


class MemoryAgent:
    """Recalls episodes for a turn, records the answer, and projects the record into Atlas and Trace."""

    name = "memory"

    def __init__(self, settings: MemorySettings) -> None:
        self.settings = settings
        self._stores = Stores(settings)
        self._projection = Projection(self._stores)
        self._words = Words(settings.language)
        self._measure_text = measure(settings.tokenizer)
        self._rebuilding = False
        self._sleeping = False
        self._summing = anyio.Lock()
        self._precedence = Precedence()
        self._ready = False
        self._bus: Bus | None = None
        self._counts = {"recalls_total": 0.0, "hits_total": 0.0}
        self._gauges: dict[str, float] = {}

    @asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        """Open the stores. What is missing or broken is made again from the record.

        Raises:
            SetupError: another process has the stores, or they cannot be written.
        """

        async def again() -> None:
            await forget(bus)

        async with self._stores.opened(again), anyio.create_task_group() as tasks:
            self._bus = bus
            await self._measure(bus)
            tasks.start_soon(self._watch, bus)
            tasks.start_soon(self._stores.tend)
            tasks.start_soon(self._expire, bus)
            if self.settings.sleep_every:
                tasks.start_soon(self._sleep_sometimes)
            self._ready = True
            try:
                yield
            finally:
                self._ready = False
                tasks.cancel_scope.cancel()

    def handlers(self) -> Sequence[Handler[Any]]:
        """Recall on the turn's path; the record and its projection off it."""
        return (
            Handler(stage=STAGE, event=QueryRouted, handle=self._recall, concurrency=self.settings.concurrency),
            Handler(
                stage=WRITE,
                event=AnswerReady,
                stream=ANSWERS,
                handle=self._record,
                concurrency=self.settings.concurrency,
                until_deadline=False,
            ),
            self._projecting(),
        )

    def endpoints(self) -> Sequence[Endpoint]:
        """Search, and making the stores again."""
        return (
            Endpoint(verb="memory.search", request=SearchRequest, handle=self._search),
            Endpoint(verb="memory.rebuild", request=RebuildRequest, handle=self._rebuild),
            Endpoint(verb="memory.verify", request=VerifyRequest, handle=self._verify),
            Endpoint(verb="memory.stats", request=StatsRequest, handle=self._stats),
            Endpoint(verb="memory.sleep", request=SleepRequest, handle=self._sleep),
            Endpoint(verb="memory.session", request=SessionRequest, handle=self._session),
            Endpoint(verb="memory.forget", request=ForgetRequest, handle=self._forget_session),
        )

    def status(self) -> StatusReply:
        """Episodes in each store, the projection's lag in episodes, recalls and hits."""
        return StatusReply(
            agent=self.name,
            ready=self._ready,
            detail="rebuilding from the record" if self._rebuilding else "",
            gauges=self._counts | self._gauges,
            info={"data_dir": str(self.settings.data_dir)},
        )

    def _projecting(self) -> Handler[EpisodeRecorded]:
        return Handler(
            stage=PROJECTION,
            event=EpisodeRecorded,
            handle=self._project,
            stream=EPISODES,
            concurrency=self.settings.projection_batch,
            ack_wait=30.0,
            max_deliver=8,
            until_deadline=False,
        )

    async def _recall(self, event: QueryRouted, delivery: Delivery) -> RecallDone:
        with self._precedence.first():
            found = await self._recalled(event) if event.route.plan.recall else Recall()
        timing = StageTiming(
            stage=STAGE, started_at=delivery.received_at, finished_at=time.time(), attempt=delivery.attempt
        )
        return RecallDone(
            envelope=event.envelope.next(STAGE),
            query=event.query,
            route=event.route,
            recall=found,
            timings=(*event.timings, timing),
        )

    async def _recalled(self, event: QueryRouted) -> Recall:
        """What the turn is shown; nothing when the store fails or is slow: memory never holds a turn up."""
        settings, envelope = self.settings, event.envelope
        self._counts["recalls_total"] += 1
        if not event.route.embedding:
            metrics.degraded("recall.no_embedding", "the router gave no embedding; only words can recall.")
        text = event.query.text
        if is_small_talk(text):
            return Recall()
        ask = Ask(tenant=envelope.tenant, vector=event.route.embedding, text=text, limit=settings.candidates)
        try:
            with anyio.fail_after(settings.recall_timeout):
                found = await find(self._stores, ask, now=time.time(), settings=settings)
        except TimeoutError:
            metrics.degraded("recall.failed", f"the store did not answer within {settings.recall_timeout} s.")
            return Recall()
        except KikiError as error:
            metrics.degraded("recall.failed", error.message)
            return Recall()
        others = [one for one in found if one.match.turn_id != envelope.turn_id]
        kept = distinct(relevant(others[: settings.compared], text=text, words=self._words, settings=settings))
        shown = fitting(hits(kept), settings=settings, measure=self._measure_text)
        self._counts["hits_total"] += len(shown)
        return Recall(hits=shown)

    async def _record(self, event: AnswerReady, delivery: Delivery) -> EpisodeRecorded | None:
        """The episode, once: the broker forgets message ids after a while, the stream does not."""
        if not event.route.plan.record or event.finish_reason == "tool_calls":
            return None  # a call is no answer yet; the turn that brings its result is recorded
        kinds = (EpisodeRecorded, EpisodeForgotten)
        if await delivery.bus.last_of(kinds, event.envelope.turn_id, stream=EPISODES) is not None:
            return None
        await self._precedence.after()
        return await anyio.to_thread.run_sync(recorded, event)

    async def _project(self, event: EpisodeRecorded, delivery: Delivery) -> None:
        """Into the stores, unless the episode was forgotten while it waited here."""
        if await delivery.bus.last(EpisodeForgotten, event.envelope.turn_id, stream=EPISODES) is not None:
            return
        async for attempt in _until_back():
            with attempt:
                await self._projection.add(event.episode, recorded_at=delivery.stored_at)

    async def _search(self, request: SearchRequest) -> SearchReply:
        ask = Ask(
            tenant=request.tenant,
            vector=request.vector,
            text=request.text,
            limit=max(self.settings.candidates, request.limit),
            session_id=request.session_id,
            as_of=request.as_of,
        )
        now = time.time() if request.as_of is None else request.as_of
        found = await find(self._stores, ask, now=now, settings=self.settings)
        return SearchReply(hits=tuple(hits(found[: request.limit])))

    async def _rebuild(self, request: RebuildRequest) -> RebuildReply:
        """Empty the stores (of one tenant), project the record again, and answer when all of it is in.

        Raises:
            Refused: a rebuild is running.
            Unavailable: the broker is away.
        """
        bus = self._bus
        if bus is None or self._rebuilding:
            raise Refused("the memory is being rebuilt already: wait until its projection_lag is 0.")
        self._rebuilding, started = True, time.monotonic()
        try:
            if request.tenant is not None:
                episodes = await renewed(self._stores, bus, tenant=request.tenant)
            else:
                async with self._stores.changing:
                    await self._stores.renew(lambda: forget(bus))
                    await Consumer(bus, self._projecting()).declare()
                last = (await bus.js.stream_info(EPISODES)).state.last_seq
                await caught_up(bus, last)
                episodes = await self._stores.trace.count()
        except (TimeoutError, nats.errors.Error, APIError) as error:
            raise Unavailable(
                f"the rebuild lost the broker ({error or type(error).__name__}): run it again."
            ) from error
        finally:
            self._rebuilding = False
        seconds = time.monotonic() - started
        _log.info("memory rebuilt", episodes=episodes, seconds=round(seconds, 2))
        return RebuildReply(episodes=episodes, seconds=seconds)

    async def _verify(self, request: VerifyRequest) -> VerifyReply:
        """Compare the stores with the record (of one tenant) as far as it was projected when this began."""
        bus = self._connected()
        async with self._stores.changing:
            recorded_keys = {
                key(one.tenant, "episode", one.episode_id): one.episode_id
                async for one in record.episodes(bus, tenant=request.tenant)
            }
            atlas = await self._stores.atlas.keys(tenant=request.tenant)
            trace = await self._stores.trace.keys(tenant=request.tenant)
            waiting = int(lag(await progress(bus)))
        wanted = set(recorded_keys)
        return VerifyReply(
            recorded=len(wanted),
            waiting=waiting,
            missing_in_atlas=_names(wanted - atlas, recorded_keys),
            missing_in_trace=_names(wanted - trace, recorded_keys),
            unknown_in_atlas=len(atlas - wanted),
            unknown_in_trace=len(trace - wanted),
        )

    async def _stats(self, request: StatsRequest) -> StatsReply:
        """What one tenant has in the stores."""
        edges = await self._stores.trace.edges(tenant=request.tenant)
        return StatsReply(
            atlas_episodes=len(await self._stores.atlas.keys(tenant=request.tenant)),
            trace_episodes=len(await self._stores.trace.keys(tenant=request.tenant)),
            edges={kind: len(found) for kind, found in edges.items()},
        )

    async def _sleep(self, request: SleepRequest) -> SleepReply:
        """Sum up old episodes; answered when the summaries are in the stores.

        Raises:
            Refused: a sleep is going on.
            Unavailable: the broker is away.
        """
        bus = self._connected()
        if self._sleeping:
            raise Refused("the memory is asleep already: wait until that sleep ends.")
        self._sleeping = True
        try:
            reply = await sleep(bus, request, self.settings, alone=self._summing)
            await caught_up(bus, (await bus.js.stream_info(EPISODES)).state.last_seq)
        except (TimeoutError, nats.errors.Error, APIError) as error:
            raise Unavailable(f"the sleep lost the broker ({error or type(error).__name__}): sleep again.") from error
        finally:
            self._sleeping = False
        return reply

    async def _sleep_sometimes(self) -> None:
        while True:
            await anyio.sleep(self.settings.sleep_every)
            try:
                await self._sleep(SleepRequest())
            except KikiError as error:
                metrics.degraded("sleep.failed", error.message)

    async def _session(self, request: SessionRequest) -> SessionReply:
        found = await self._stores.trace.turns(request.session_id, tenant=request.tenant)
        names = [key(request.tenant, "episode", one.episode_id) for one in found]
        kept = await self._stores.atlas.read(names)
        return SessionReply(
            session_id=request.session_id, episodes=tuple(told(kept[name]) for name in names if name in kept)
        )

    async def _forget_session(self, request: ForgetRequest) -> ForgetReply:
        """Tombstones for every episode of the session, then its text out of the record, the turns and the stores.

        Raises:
            Unavailable: the broker or a store failed; asking again goes on where it stopped.
        """
        bus = self._connected()
        async with self._summing:  # no sleep may tell it again meanwhile
            await caught_up(bus, (await bus.js.stream_info(EPISODES)).state.last_seq)
            async with self._stores.changing:
                told_again = await self._stores.trace.summaries_of(request.session_id, tenant=request.tenant)
                for summary in told_again:
                    await self._forgotten(summary, request.tenant)
                found = await self._forgotten(request.session_id, request.tenant)
        _log.info("session forgotten", session_id=request.session_id, episodes=found, summaries=len(told_again))
        return ForgetReply(episodes=found)

    async def _forgotten(self, session_id: str, tenant: str) -> int:
        """Erase one session, here and in the record; how many episodes it had."""
        bus, atlas, trace = self._connected(), self._stores.atlas, self._stores.trace
        found = await trace.turns(session_id, tenant=tenant)
        for one in found:
            await erase(bus, one, tenant=tenant, session_id=session_id)
        parts = await trace.parts_of(session_id, tenant=tenant)
        await atlas.remove([key(tenant, "episode", one.episode_id) for one in found], {})
        if parts:
            await atlas.mark(parts, "")
        await trace.remove_session(session_id, tenant=tenant)
        return len(found)

    def _connected(self) -> Bus:
        if self._bus is None:
            raise Unavailable("the memory is not open.")
        return self._bus

    async def _expire(self, bus: Bus) -> None:
        """Answers are kept as long as the other events of their turns."""
        while True:
            try:
                await expire(bus, age=TURN_MAX_AGE)
            except KikiError as error:
                metrics.degraded("memory.expiry", error.message)
            await anyio.sleep(EXPIRY_SECONDS)

    async def _watch(self, bus: Bus) -> None:
        while True:
            await anyio.sleep(self.settings.status_interval)
            await self._measure(bus)

    async def _measure(self, bus: Bus) -> None:
        try:
            atlas = await self._stores.atlas.count()
            trace = await self._stores.trace.count()
            found = await progress(bus)
        except (TimeoutError, nats.errors.Error, APIError, KikiError) as error:
            metrics.degraded("memory.gauges", str(error) or type(error).__name__)
            return
        self._gauges = {"atlas_episodes": atlas, "trace_episodes": trace, "projection_lag": lag(found)}


def _until_back() -> AsyncRetrying:
    """A server that is away is waited for with the message in hand: no episode is given up for it."""
    return AsyncRetrying(
        retry=retry_if_exception_type(StoreAway),
        wait=wait_random_exponential(multiplier=0.2, max=AWAY_SECONDS),
        before_sleep=_count_away,
    )


def _count_away(state: RetryCallState) -> None:
    metrics.degraded("projection.away", str(state.outcome.exception()) if state.outcome else "")


def _names(missing: set[str], ids: dict[str, str]) -> tuple[str, ...]:
    return tuple(sorted(ids[name] for name in missing))
