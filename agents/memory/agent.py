"""The memory agent: recalls before the answer, records the answer, and projects the record into the stores."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import msgspec
import structlog

from agents.memory.embedding import QUERY_SECONDS, MemoryEmbedder
from agents.memory.episodes import build_record, owner_key, store_key
from agents.memory.forgetting import expire, finish_forgetting, forget
from agents.memory.history import SessionTurns, drop_present, fit_turns, insert_history, sends_history
from agents.memory.priority import RecallPriority
from agents.memory.progress import (
    PROJECTION,
    RECORD,
    TAKEN,
    lag,
    read_progress,
    reset_progress,
    reset_progress_beyond_record,
    wait_until_projected,
    wait_until_remembered,
)
from agents.memory.projection import Projection
from agents.memory.ranking import Match, hits, recalled_episode
from agents.memory.rebuild import project_record, renew_tenant
from agents.memory.recording import RecordWriter
from agents.memory.search import choose_hits, find
from agents.memory.settings import MemorySettings
from agents.memory.sleep import sleep
from agents.memory.stores.pair import Stores
from agents.memory.stores.room import wait_for_room
from agents.memory.stores.stored import Lookup
from agents.memory.text.smalltalk import is_small_talk
from agents.memory.text.words import WordEncoder
from agents.memory.tokens import token_counter
from agents.memory.verification import verify
from bus import failpoints, metrics, record
from bus.agent import Endpoint
from bus.background import keep_running
from bus.connection import Bus
from bus.errors import BrokerUnavailable
from bus.handler import Consumer, Delivery, Handler
from bus.stream import measure_stream
from bus.topology import ANSWERS, EPISODES, TURN_MAX_AGE
from bus.turns.events import find_end
from schemas.calls import (
    MEMORY_CONVERSATION,
    MEMORY_FORGET,
    MEMORY_REBUILD,
    MEMORY_SEARCH,
    MEMORY_SESSION,
    MEMORY_SLEEP,
    MEMORY_STATS,
    MEMORY_VERIFY,
)
from schemas.envelope import Envelope
from schemas.episode import Episode
from schemas.errors import InvalidInput, KikiError, Refused, Unavailable
from schemas.events import (
    AnswerReady,
    AnswerTaken,
    EpisodeForgotten,
    EpisodeRecorded,
    Event,
    QueryRouted,
    RecallDone,
)
from schemas.findings import Recall, RecalledEpisode
from schemas.memory import (
    ConversationReply,
    ConversationRequest,
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

E = TypeVar("E", bound=Event)

STAGE = "memory"
EXPIRY_SECONDS = 60.0
"""Seconds between two searches for answers that are old enough to be removed."""

RECORD_TRIES = 32
"""Deliveries of an answer before its record is given up: a cluster that elects leaders loses some of them."""

TIME_SHARE = 0.2
"""Share of the time that is left to a turn that one step of recall may take: a short turn is left time to answer."""

HISTORY_TURNS = 64
"""Turns of a session that are read for its history at most, whatever the budget is."""

_log = structlog.get_logger("memory")


class MemoryAgent:
    """Recalls episodes for a turn, records the answer, and projects the record into Atlas and Trace."""

    name = "memory"

    def __init__(self, settings: MemorySettings) -> None:
        self.settings = settings
        self._stores = Stores(settings)
        self._projection = Projection(self._stores, self._renew_embeddings)
        self._words = WordEncoder(settings.language)
        self._count_tokens = token_counter(settings.tokenizer)
        self._rebuilding = False
        self._rebuilt_until = 0  # sequence in the record; what the consumer brings once more until there is passed over
        self._renewed = anyio.Event()  # set unless the stores are emptied and filled at this moment
        self._renewed.set()
        self._record_writer = RecordWriter()
        self._sleeping = False
        self._summary_lock = anyio.Lock()
        self._recall_priority = RecallPriority()
        self._ready = False
        self._bus: Bus
        self._embedder: MemoryEmbedder
        self._counts = {"recalls_total": 0.0, "hits_total": 0.0}
        self._gauges: dict[str, float] = {}

    @asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        """Open the stores. A store that is missing or broken is made again from the record.

        Raises:
            SetupError: another process has the stores open, or they cannot be written.
            StoreStuck: a store must be opened anew: the agent's process ends, and is started again.
        """

        async def restart_projection() -> None:
            await reset_progress(bus)

        async def count_waiting() -> int:
            return int(lag(await read_progress(bus)))

        await wait_for_room(self.settings)
        await reset_progress_beyond_record(bus)
        async with self._stores.open(restart_projection, count_waiting), anyio.create_task_group() as tasks:
            self._bus, self._embedder = bus, MemoryEmbedder(bus, self.settings)
            await self._update_gauges(bus)
            tasks.start_soon(self._stores.end_once_stuck)
            tasks.start_soon(keep_running, "memory.gauges", self._update_gauges_at_intervals, bus)
            tasks.start_soon(keep_running, "atlas.optimise", self._stores.optimise_whenever_due)
            tasks.start_soon(keep_running, "memory.expiry", self._expire, bus)
            tasks.start_soon(keep_running, "memory.forgetting", finish_forgetting, bus, self._stores)
            if self.settings.sleep_every:
                tasks.start_soon(keep_running, "sleep.failed", self._sleep_at_intervals)
            self._ready = True
            try:
                yield
            finally:
                self._ready = False
                tasks.cancel_scope.cancel()

    def handlers(self) -> Sequence[Handler[Any]]:
        """Recall, which the turn waits for; the record and its projection, which it does not wait for."""
        return (
            Handler(
                stage=STAGE, event=QueryRouted, handle=self._recall, concurrency=self.settings.concurrency, fair=True
            ),
            self._record_handler(RECORD, AnswerReady, self._record),
            self._record_handler(TAKEN, AnswerTaken, self._record_taken),
            self._projection_handler(),
        )

    def endpoints(self) -> Sequence[Endpoint]:
        """Search, upkeep of the stores, finding a conversation, reading a session, and forgetting."""
        return (
            Endpoint(MEMORY_SEARCH, self._search),
            Endpoint(MEMORY_REBUILD, self._rebuild),
            Endpoint(MEMORY_VERIFY, self._verify),
            Endpoint(MEMORY_STATS, self._stats),
            Endpoint(MEMORY_SLEEP, self._sleep),
            Endpoint(MEMORY_SESSION, self._session),
            Endpoint(MEMORY_CONVERSATION, self._conversation),
            Endpoint(MEMORY_FORGET, self._forget),
        )

    def status(self) -> StatusReply:
        """Episodes in each store, the projection's lag in episodes, recalls and hits."""
        problem = self._record_writer.problem or self._projection.problem
        return StatusReply(
            agent=self.name,
            ready=self._ready and not problem,
            detail=problem or ("rebuilding from the record" if self._rebuilding else self._stores.away),
            gauges=self._counts | self._gauges,
            info={"data_dir": str(self.settings.data_dir)},
        )

    def _record_handler(
        self, stage: str, event: type[E], handle: Callable[[E, Delivery], Awaitable[None]]
    ) -> Handler[E]:
        return Handler(
            stage=stage,
            event=event,
            stream=ANSWERS,
            handle=handle,
            concurrency=self.settings.concurrency,
            max_deliver=RECORD_TRIES,
            until_deadline=False,
            outlasts=True,
        )

    def _projection_handler(self) -> Handler[EpisodeRecorded]:
        return Handler(
            stage=PROJECTION,
            event=EpisodeRecorded,
            handle=self._project,
            stream=EPISODES,
            concurrency=self.settings.projection_batch,
            ack_wait=self.settings.projection_ack_wait,
            max_deliver=8,
            until_deadline=False,
            outlasts=True,
        )

    async def _recall(self, event: QueryRouted, delivery: Delivery) -> RecallDone:
        history = await self._read_history(event)
        history_ids = tuple(turn.episode_id for turn in history.turns)
        with self._recall_priority.mark_recall():
            asks = event.route.plan.recall and event.query.memory != "none"
            recalled = await self._find_recall(event, history_ids) if asks else ()
        timing = delivery.timing(STAGE)
        return RecallDone(
            envelope=event.envelope.next(STAGE),
            query=msgspec.structs.replace(event.query, messages=insert_history(event.query.messages, history.turns)),
            route=event.route,
            recall=Recall(
                hits=recalled,
                history=history_ids,
                history_until=history.until,
                history_partial=history.partial,
            ),
            timings=(*event.timings, timing),
        )

    async def _read_history(self, event: QueryRouted) -> SessionTurns:
        """Read the session's last turns, oldest first, if the client asks for them and sent none itself; none when the
        store fails or is slow.

        Raises:
            InvalidInput: the level is raw, whose turns are not recorded.
        """
        settings, envelope, query = self.settings, event.envelope, event.query
        if query.history == "none":
            return SessionTurns()
        if event.route.plan.level == "raw":
            raise InvalidInput("'history' needs the level fast or full: raw turns are not recorded.", param="history")
        if sends_history(query.messages):
            return SessionTurns()
        try:
            with anyio.move_on_after(_limit(settings.history_timeout, envelope)) as scope:
                await wait_until_remembered(self._bus)
            if scope.cancelled_caught:
                metrics.count_degraded("history.late", "answers still wait for their record: some may be missing.")
            with anyio.fail_after(_limit(settings.recall_timeout, envelope)):
                turns = await self._read_turns(
                    envelope.session_id, tenant=envelope.tenant, user=envelope.user, last=HISTORY_TURNS
                )
        except TimeoutError:
            metrics.count_degraded("history.failed", "the store did not answer in time.")
            return SessionTurns(partial=True)
        except KikiError as error:
            metrics.count_degraded("history.failed", error.message)
            return SessionTurns(partial=True)
        earlier_turns = [turn for turn in turns if turn.turn_id != envelope.turn_id]
        return SessionTurns(
            turns=fit_turns(earlier_turns, budget=settings.history_tokens, measure=self._count_tokens),
            until=max((turn.created_at for turn in earlier_turns), default=0.0),
            partial=scope.cancelled_caught or self._rebuilding,
        )

    async def _find_recall(self, event: QueryRouted, history: Sequence[str]) -> tuple[RecalledEpisode, ...]:
        """Find the episodes for a turn; none when the store fails or is slow, so that memory never delays a turn."""
        settings, envelope = self.settings, event.envelope
        self._counts["recalls_total"] += 1
        text = event.query.text
        if is_small_talk(text):
            return ()
        try:
            with anyio.fail_after(_limit(settings.recall_timeout, envelope)):
                vector = await self._find_vector(text, event.route.embedding)
                lookup = Lookup(
                    owner=owner_key(envelope.tenant, envelope.user, envelope.session_id),
                    session_id=envelope.session_id if event.query.memory == "conversation" else None,
                    vector=vector,
                    text=text,
                    limit=settings.candidates,
                )
                ranking = await find(self._stores, lookup, now=time.time(), settings=settings)
        except TimeoutError:
            metrics.count_degraded("recall.failed", "the store did not answer in time.")
            return ()
        except KikiError as error:
            metrics.count_degraded("recall.failed", error.message)
            return ()
        others = [candidate for candidate in ranking if candidate.match.turn_id != envelope.turn_id]
        unread = drop_present(
            others[: settings.compared],
            messages=event.query.messages,
            session_id=envelope.session_id,
            history=history,
        )
        best_hits = choose_hits(
            unread,
            text=text,
            session_id=envelope.session_id,
            words=self._words,
            settings=settings,
            measure=self._count_tokens,
        )
        self._counts["hits_total"] += len(best_hits)
        return best_hits

    async def _find_vector(self, text: str, vector: tuple[float, ...]) -> tuple[float, ...]:
        """The question's vector by the embedder in force; ``vector`` is the router's. Empty where there is none."""
        if not self.settings.has_own_embedder:
            if not vector:
                metrics.count_degraded("recall.no_embedding", "the router gave no embedding: only words are searched.")
            return vector
        try:
            return (await self._embedder.embed([text], timeout=QUERY_SECONDS))[0] if text else ()
        except Unavailable as error:
            metrics.count_degraded("recall.no_embedding", error.message)
            return ()

    async def _renew_embeddings(self, episodes: Sequence[Episode]) -> list[Episode]:
        return await self._embedder.renew(episodes)

    async def _record(self, event: AnswerReady, delivery: Delivery) -> None:
        """Record a turn that nobody needs to take: one that was asked on the bus."""
        if not event.query.awaited:
            await self._record_end(event.envelope.turn_id, delivery)

    async def _record_taken(self, event: AnswerTaken, delivery: Delivery) -> None:
        """Record a turn whose asker gives the answer on."""
        await self._record_end(event.envelope.turn_id, delivery)

    async def _record_end(self, turn_id: str, delivery: Delivery) -> None:
        """Record the answer with which the turn ended, once.

        The broker forgets message ids after a while, so the stream itself is read.
        """
        event = await find_end(delivery.bus, turn_id)
        if not isinstance(event, AnswerReady) or not event.is_recorded:
            return
        if await record.find_entry(delivery.bus, turn_id) is not None:
            return
        await self._recall_priority.wait_for_recalls()
        settings, vector = self.settings, None
        if settings.has_own_embedder:
            vector = await self._find_vector(event.query.text, ())
        embedder = settings.router_embedder if not vector else settings.embedder_in_force
        after = event.recall.history_until
        if event.recall.history_partial:
            after = max(after, await record.find_session_time(delivery.bus, event.envelope))
        build = partial(build_record, embedder=embedder, vector=vector or None, after=after)
        await self._record_writer.write(delivery.bus, await anyio.to_thread.run_sync(build, event))
        await failpoints.pass_window("memory.recorded")

    async def _project(self, event: EpisodeRecorded, delivery: Delivery) -> None:
        """Project the episode into the stores, unless it was forgotten while it waited here."""
        await self._renewed.wait()
        if 0 < delivery.seq <= self._rebuilt_until:
            return
        if await delivery.bus.last(EpisodeForgotten, event.envelope.turn_id, stream=EPISODES) is not None:
            return
        await self._projection.add_once_there(event.episode, recorded_at=delivery.stored_at)

    async def _search(self, request: SearchRequest) -> SearchReply:
        if not request.user and request.session_id is None:
            raise InvalidInput("memory belongs to a user or to a conversation: name a user or a session.", param="user")
        vector = await self._find_vector(request.text, request.vector)
        if not vector and len(request.vector) == self.settings.vector_size:
            vector = request.vector  # a command brings the vector of an embedder that it has loaded itself
        lookup = Lookup(
            owner=owner_key(request.tenant, request.user, request.session_id or ""),
            vector=vector,
            text=request.text,
            limit=max(self.settings.candidates, request.limit),
            session_id=request.session_id,
            as_of=request.as_of,
        )
        now = time.time() if request.as_of is None else request.as_of
        ranking = await find(self._stores, lookup, now=now, settings=self.settings)
        return SearchReply(hits=tuple(hits(ranking[: request.limit])))

    async def _rebuild(self, request: RebuildRequest) -> RebuildReply:
        """Empty the stores (of one tenant), project the record again, and answer when all of it is projected.

        Raises:
            Refused: a rebuild is running.
            Unavailable: the broker is away.
        """
        bus = self._bus
        if self._rebuilding:
            raise Refused("the memory is being rebuilt already: wait until its projection_lag is 0.")
        self._rebuilding, started = True, time.monotonic()
        try:
            if request.tenant is not None:
                episodes = await renew_tenant(
                    self._stores, bus, self._renew_embeddings, tenant=request.tenant, user=request.user
                )
            else:
                self._renewed = anyio.Event()
                async with self._stores.write_lock:
                    await self._stores.renew(lambda: reset_progress(bus))
                    await self._project_record()
                    await Consumer(bus, self._projection_handler()).declare()
                self._renewed.set()
                await wait_until_projected(bus)
                episodes = await self._stores.trace.count()
        except BrokerUnavailable as error:
            raise Unavailable(f"the rebuild lost the broker ({error.reason}): run it again.") from error
        finally:
            self._rebuilding, self._rebuilt_until = False, 0
            self._renewed.set()
        seconds = time.monotonic() - started
        _log.info("memory rebuilt", episodes=episodes, seconds=round(seconds, 2))
        return RebuildReply(episodes=episodes, seconds=seconds)

    async def _project_record(self) -> None:
        """Project the record in large batches. Where that fails, the consumer's messages project each episode."""
        last = (await measure_stream(self._bus, EPISODES)).last_seq
        try:
            await project_record(self._stores, self._bus, self._renew_embeddings)
        except KikiError as error:
            metrics.count_degraded("rebuild.by_messages", error.message)
        else:
            self._rebuilt_until = last

    async def _verify(self, request: VerifyRequest) -> VerifyReply:
        return await verify(self._bus, self._stores, request)

    async def _stats(self, request: StatsRequest) -> StatsReply:
        """Count a tenant's or a user's episodes in both stores, and its edges by kind."""
        tenant, user, atlas, trace = request.tenant, request.user, self._stores.atlas, self._stores.trace
        edges = await trace.edges(tenant=tenant, user=user)
        return StatsReply(
            atlas_episodes=len(await atlas.keys(tenant=tenant, user=user)),
            trace_episodes=len(await trace.keys(tenant=tenant, user=user)),
            edges={kind: len(pairs) for kind, pairs in edges.items()},
        )

    async def _sleep(self, request: SleepRequest) -> SleepReply:
        """Sum up old episodes; the reply comes when the summaries are in the stores.

        Raises:
            Refused: a sleep is already running.
            Unavailable: the broker is away.
        """
        bus = self._bus
        if self._sleeping:
            raise Refused("the memory is asleep already: wait until that sleep ends.")
        self._sleeping = True
        try:
            reply = await sleep(bus, request, self.settings, summary_lock=self._summary_lock)
            await wait_until_projected(bus)
        except BrokerUnavailable as error:
            raise Unavailable(f"the sleep lost the broker ({error.reason}): sleep again.") from error
        finally:
            self._sleeping = False
        return reply

    async def _sleep_at_intervals(self) -> None:
        while True:
            await anyio.sleep(self.settings.sleep_every)
            try:
                await self._sleep(SleepRequest())
            except KikiError as error:
                metrics.count_degraded("sleep.failed", error.message)

    async def _session(self, request: SessionRequest) -> SessionReply:
        turns = await self._read_turns(request.session_id, tenant=request.tenant, user=request.user)
        return SessionReply(session_id=request.session_id, episodes=tuple(map(recalled_episode, turns)))

    async def _read_turns(self, session_id: str, *, tenant: str, user: str, last: int = 0) -> list[Match]:
        """Read a session's episodes in order of time, all or the ``last`` ones."""
        members = await self._stores.trace.turns(session_id, tenant=tenant, user=user)
        names = [store_key(tenant, "episode", member.episode_id) for member in members[-last:]]
        matches = await self._stores.atlas.read(names)
        return [matches[name] for name in names if name in matches]

    async def _conversation(self, request: ConversationRequest) -> ConversationReply:
        """Find the one conversation that ends with a transcript.

        An answer is looked for only when all that were ready before are in the stores: of two conversations with the
        same transcript one may still be on its way.
        """
        with anyio.move_on_after(self.settings.conversation_timeout) as waiting:
            await wait_until_remembered(self._bus)
        if waiting.cancelled_caught:
            metrics.count_degraded("memory.conversation", "answers wait to be recorded: a new conversation begins.")
            return ConversationReply(session_id=None)
        tenant, user = request.tenant, request.user
        ends = await self._stores.atlas.find_transcript(request.transcript, tenant=tenant, user=user)
        sessions = {session_id for session_id, _ in ends}
        if len(sessions) != 1:
            return ConversationReply(session_id=None)
        session_id = sessions.pop()
        members = await self._stores.trace.turns(session_id, tenant=tenant, user=user)
        is_whole = bool(members) and members[-1].episode_id in {episode for _, episode in ends}
        return ConversationReply(session_id=session_id if is_whole else None)

    async def _forget(self, request: ForgetRequest) -> ForgetReply:
        async with self._summary_lock:  # no sleep may sum up the sessions meanwhile
            return await forget(self._bus, self._stores, request)

    async def _expire(self, bus: Bus) -> None:
        """Remove answers that are in the record, once they are as old as the other events of their turns may become."""
        while True:
            await expire(bus, age=TURN_MAX_AGE)
            await anyio.sleep(EXPIRY_SECONDS)

    async def _update_gauges_at_intervals(self, bus: Bus) -> None:
        while True:
            await anyio.sleep(self.settings.status_interval)
            await self._update_gauges(bus)

    async def _update_gauges(self, bus: Bus) -> None:
        try:
            atlas = await self._stores.atlas.count()
            trace = await self._stores.trace.count()
            consumer = await read_progress(bus)
        except KikiError as error:
            metrics.count_degraded("memory.gauges", error.message)
            return
        self._gauges = {"atlas_episodes": atlas, "trace_episodes": trace, "projection_lag": lag(consumer)}


def _limit(seconds: float, envelope: Envelope) -> float:
    """``seconds``, or less in a turn that has little time left."""
    return min(seconds, TIME_SHARE * max(0.0, envelope.remaining))
