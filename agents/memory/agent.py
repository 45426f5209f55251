"""Memory on the bus: recall before the answer, the record after it, the projections from the record."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import nats.errors
import structlog
from nats.js.api import ConsumerInfo
from nats.js.errors import APIError, NotFoundError

from agents.memory.atlas import Ask
from agents.memory.budget import measure
from agents.memory.finding import find
from agents.memory.projection import Projection
from agents.memory.recall import distinct, fitting, hits, relevant
from agents.memory.record import recorded
from agents.memory.settings import MemorySettings
from agents.memory.smalltalk import is_small_talk
from agents.memory.stores import Stores
from agents.memory.words import Words
from bus import metrics
from bus.agent import Endpoint
from bus.connection import Bus
from bus.handler import Consumer, Delivery, Handler
from bus.topology import EPISODES
from schemas.errors import KikiError, Refused, Unavailable
from schemas.events import AnswerReady, EpisodeRecorded, QueryRouted, RecallDone
from schemas.services import RebuildReply, RebuildRequest, SearchReply, SearchRequest, StatusReply
from schemas.stages import Recall, StageTiming

STAGE = "memory"
WRITE = "memory-write"
PROJECTION = "memory-projection"

_POLL = 0.05
"""Seconds between two looks at a rebuild's progress."""

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

        async def forget() -> None:
            await _forget(bus)

        async with self._stores.opened(forget), anyio.create_task_group() as tasks:
            self._bus = bus
            await self._measure(bus)
            tasks.start_soon(self._watch, bus)
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
        kept = distinct(relevant(others, text=text, words=self._words, settings=settings))
        shown = fitting(hits(kept), settings=settings, measure=self._measure_text)
        self._counts["hits_total"] += len(shown)
        return Recall(hits=shown)

    async def _record(self, event: AnswerReady, delivery: Delivery) -> EpisodeRecorded | None:
        """The episode, once: the broker forgets message ids after a while, the stream does not."""
        if not event.route.plan.record:
            return None
        stored = await delivery.bus.last(EpisodeRecorded, event.envelope.turn_id, stream=EPISODES)
        return None if stored is not None else recorded(event)

    async def _project(self, event: EpisodeRecorded, _: Delivery) -> None:
        await self._projection.add(event.episode)

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

    async def _rebuild(self, _: RebuildRequest) -> RebuildReply:
        """Empty the stores, project the whole record again, and answer when all of it is in.

        Raises:
            Refused: a rebuild is running.
            Unavailable: the broker is away.
        """
        bus = self._bus
        if bus is None or self._rebuilding:
            raise Refused("the memory is being rebuilt already: wait until its projection_lag is 0.")
        self._rebuilding, started = True, time.monotonic()
        try:
            async with self._stores.changing:
                await self._stores.renew(lambda: _forget(bus))
                await Consumer(bus, self._projecting()).declare()
            last = (await bus.js.stream_info(EPISODES)).state.last_seq
            await _caught_up(bus, last)
            episodes = await self._stores.trace.run(lambda trace: trace.count())
        except (TimeoutError, nats.errors.Error, APIError) as error:
            raise Unavailable(
                f"the rebuild lost the broker ({error or type(error).__name__}): run it again."
            ) from error
        finally:
            self._rebuilding = False
        seconds = time.monotonic() - started
        _log.info("memory rebuilt", episodes=episodes, seconds=round(seconds, 2))
        return RebuildReply(episodes=episodes, seconds=seconds)

    async def _watch(self, bus: Bus) -> None:
        while True:
            await anyio.sleep(self.settings.status_interval)
            await self._measure(bus)

    async def _measure(self, bus: Bus) -> None:
        try:
            atlas = await self._stores.atlas.run(lambda store: store.count())
            trace = await self._stores.trace.run(lambda store: store.count())
            found = await _progress(bus)
        except (TimeoutError, nats.errors.Error, APIError, KikiError) as error:
            metrics.degraded("memory.gauges", str(error) or type(error).__name__)
            return
        self._gauges = {"atlas_episodes": atlas, "trace_episodes": trace, "projection_lag": _lag(found)}


async def _forget(bus: Bus) -> None:
    """Remove the projection's durable consumer; the next one begins at the first episode."""
    try:
        await bus.js.delete_consumer(EPISODES, PROJECTION)
    except NotFoundError:
        return


async def _progress(bus: Bus) -> ConsumerInfo | None:
    try:
        return await bus.js.consumer_info(EPISODES, PROJECTION)
    except NotFoundError:
        return None


def _lag(progress: ConsumerInfo | None) -> float:
    """Episodes recorded and not yet projected."""
    return float((progress.num_pending or 0) + (progress.num_ack_pending or 0)) if progress else 0.0


async def _caught_up(bus: Bus, last: int) -> None:
    """Wait until everything up to the stream sequence ``last`` is projected, or given up."""
    while True:
        progress = await _progress(bus)
        floor = progress.ack_floor.stream_seq if progress and progress.ack_floor else 0
        if progress is not None and (floor >= last or _lag(progress) == 0):
            return
        await anyio.sleep(_POLL)
