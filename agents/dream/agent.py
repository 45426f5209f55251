"""The dream agent: queues episodes, executes them one after the other, and swaps their adapters in.

The modules that compute with weights (numpy) are imported at the first dream or swap, because the process mostly waits.
"""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog

from agents.dream import beta, journal, profiles, ring
from agents.dream.settings import DreamSettings
from agents.shared.retained import RetainedSet, load_retained_set
from bus import metrics
from bus.agent import Endpoint
from bus.connection import Bus
from bus.errors import translate_errors
from bus.handler import Delivery, Handler
from bus.stream import measure_stream
from bus.topology import DREAMS
from schemas.calls import DREAM_FETCH, DREAM_REQUEST, DREAM_SNAPSHOT, DREAM_STATUS, DREAM_SWAP, EMBED, SERVICES_FETCH
from schemas.consolidation import SwapReply, SwapRequest
from schemas.dream import (
    BetaReply,
    BetaRequest,
    DreamAborted,
    DreamAccepted,
    DreamDone,
    DreamRequest,
    DreamRequested,
    DreamStatus,
    DreamStatusRequest,
    Snapshot,
    SnapshotReply,
    SnapshotRequest,
)
from schemas.embedder import EmbedRequest
from schemas.envelope import Envelope
from schemas.errors import KikiError
from schemas.services import FetchRequest
from schemas.status import StatusReply

if TYPE_CHECKING:
    from agents.dream.execution import Execution
    from agents.dream.swap import Swaps

EMBED_BATCH = 64
"""Texts of one request to the embedder."""

EMBED_TIMEOUT = 120.0
"""Seconds that such a request may take."""

_log = structlog.get_logger("dream")


class DreamAgent:
    """Runs dream episodes for dream-of-kiki and puts their adapters into use."""

    name = "dream"

    def __init__(self, settings: DreamSettings) -> None:
        self.settings = settings
        self._bus: Bus
        self._ready = False
        self._retained: RetainedSet
        self._swaps: Swaps | None = None
        self._counts = {"done_total": 0.0, "aborted_total": 0.0, "swapped_total": 0.0, "last_pause_ms": 0.0}

    @asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        """Read the retained set.

        Raises:
            SetupError: the set cannot be used.
        """
        self._retained = load_retained_set(self.settings.retained)
        self._bus, self._ready = bus, True
        try:
            yield
        finally:
            self._ready, self._swaps = False, None

    def handlers(self) -> Sequence[Handler[Any]]:
        """The queue of episodes: one at a time, in order."""
        return (
            Handler(
                stage="dream",
                event=DreamRequested,
                handle=self._dream,
                stream=DREAMS,
                concurrency=1,
                in_order=True,
                ack_wait=30.0,
                max_deliver=self.settings.tries,
                until_deadline=False,
                give_up=self._give_up,
            ),
        )

    def endpoints(self) -> Sequence[Endpoint]:
        """The verbs that dream-of-kiki calls."""
        return (
            Endpoint(DREAM_FETCH, self._fetch),
            Endpoint(DREAM_REQUEST, self._request),
            Endpoint(DREAM_STATUS, self._status),
            Endpoint(DREAM_SNAPSHOT, self._snapshot),
            Endpoint(DREAM_SWAP, self._swap),
        )

    def status(self) -> StatusReply:
        """Episodes done and aborted, swaps, and the last pause."""
        return StatusReply(agent=self.name, ready=self._ready, gauges=dict(self._counts))

    async def _fetch(self, request: BetaRequest) -> BetaReply:
        bus = self._bus
        fetch_request = FetchRequest(name=request.name, limit=request.limit, wait=request.wait, holder=request.holder)
        reply = await bus.request(SERVICES_FETCH, fetch_request, timeout=request.wait + 10.0)
        episodes = [(record.id, record.episode) for record in reply.records if record.episode is not None]
        answers = await self._embed([episode.answer for _, episode in episodes]) if request.pairs else ()
        vectors = answers or [()] * len(episodes)
        records = [
            beta.beta_record(number, episode, answer=vector)
            for (number, episode), vector in zip(episodes, vectors, strict=True)
        ]
        tombstones = tuple(record.id for record in reply.records if record.episode is None)
        return BetaReply(records=tuple(records), tombstones=tombstones)

    async def _request(self, request: DreamRequest) -> DreamAccepted:
        bus, episode = self._bus, request.episode
        profiles.check_episode(request.profile, episode)
        if await journal.find_entry(bus, episode.episode_id) is None:
            now = time.time()
            envelope = Envelope(
                event_id=f"{episode.episode_id}:dream.requested",
                turn_id=episode.episode_id,
                session_id=episode.input_slice.adapter,
                tenant=request.tenant,
                created_at=now,
                deadline=now + episode.budget.wall_time_s,
            )
            await bus.publish(DreamRequested(envelope=envelope, profile=request.profile, episode=episode))
        return DreamAccepted(episode_id=episode.episode_id, waiting=await self._count_waiting())

    async def _status(self, request: DreamStatusRequest) -> DreamStatus:
        return await journal.read_status(self._bus, request.episode_id)

    async def _snapshot(self, request: SnapshotRequest) -> SnapshotReply:
        bus, now = self._bus, time.time()
        envelope = Envelope(
            event_id=f"{request.snapshot_id}:dream.snapshot",
            turn_id=request.snapshot_id,
            session_id="latents",
            tenant="dream",
            created_at=now,
            deadline=now,
        )
        await bus.publish(Snapshot(envelope=envelope, species=request.species))
        return SnapshotReply(kept=await ring.count_snapshots(bus))

    async def _swap(self, request: SwapRequest) -> SwapReply:
        if self._swaps is None:
            from agents.dream.swap import Swaps

            self._swaps = Swaps(self._bus, self.settings, self._retained)
        reply = await self._swaps.swap(request)
        self._counts["swapped_total"] += 1
        self._counts["last_pause_ms"] = reply.pause_ms
        return reply

    async def _dream(self, event: DreamRequested, delivery: Delivery) -> None:
        """Execute an episode that is not in the log. Retryable errors have it delivered again; others end it in the
        log."""
        bus = delivery.bus
        if await journal.find_entry(bus, event.episode.episode_id) is not None:
            return
        execution = self._make_execution(bus, event)
        try:
            profiles.check_episode(event.profile, event.episode)
            report = await execution.run()
        except KikiError as error:
            if error.retryable:
                raise
            await self._abort(bus, event, error, execution)
            return
        await journal.write_entry(bus, DreamDone(envelope=event.envelope.next("dream"), report=report))
        self._counts["done_total"] += 1
        _log.info("dream done", episode_id=report.episode_id, executed=report.executed)

    async def _give_up(self, event: DreamRequested, error: KikiError) -> None:
        bus = self._bus
        await self._abort(bus, event, error, self._make_execution(bus, event))

    def _make_execution(self, bus: Bus, event: DreamRequested) -> "Execution":
        from agents.dream.execution import Execution

        return Execution(bus, self.settings, event)

    async def _abort(self, bus: Bus, event: DreamRequested, error: KikiError, execution: "Execution") -> None:
        outcome = DreamAborted(
            envelope=event.envelope.next("dream"),
            report=execution.report,
            code=error.code,
            message=error.message,
            param=error.param,
        )
        await journal.write_entry(bus, outcome)
        self._counts["aborted_total"] += 1
        metrics.HANDLED.labels("dream", error.code).inc()
        _log.warning("dream aborted", episode_id=execution.report.episode_id, code=error.code, error=error.message)

    async def _embed(self, texts: Sequence[str]) -> list[tuple[float, ...]]:
        vectors: list[tuple[float, ...]] = []
        for start in range(0, len(texts), EMBED_BATCH):
            request = EmbedRequest(texts=tuple(texts[start : start + EMBED_BATCH]))
            vectors += (await self._bus.request(EMBED, request, timeout=EMBED_TIMEOUT)).vectors
        return vectors

    async def _count_waiting(self) -> int:
        with translate_errors("the queue cannot be read"):
            return (await measure_stream(self._bus, DREAMS)).messages
