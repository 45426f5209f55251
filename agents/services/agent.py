"""The record for other services, as an agent: register, fetch, mark, replay, and how far behind each service is."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any
from weakref import WeakValueDictionary

import anyio
import structlog
from prometheus_client import Gauge

from agents.services import flow
from agents.services.cursor import Cursors, FetchBatch
from agents.services.registration import make_registration, read_entry
from agents.services.registry import find_service, list_strangers, reconcile_consumers, register
from agents.services.retention import trim
from agents.services.running_replays import Replays
from agents.services.settings import ServicesSettings
from agents.services.stacks import load_stacks
from agents.services.stock import follow_log
from bus import metrics
from bus.agent import Endpoint
from bus.connection import Bus
from bus.errors import translate_errors
from bus.handler import Handler
from bus.record import ServiceStanding, read_services
from bus.stream import StreamSize, measure_stream
from bus.topology import SERVICES, SMALL_MAX_BYTES
from schemas.calls import (
    FLOW_FETCH,
    FLOW_PUBLISH,
    FLOW_SNAPSHOT,
    REPLAY_START,
    REPLAY_STOP,
    SERVICES_FETCH,
    SERVICES_LS,
    SERVICES_MARK,
    SERVICES_REGISTER,
    SERVICES_TRIM,
    SERVICES_UNREGISTER,
)
from schemas.errors import InvalidInput, Refused
from schemas.flow import (
    FlowFetchReply,
    FlowFetchRequest,
    FlowPublishReply,
    FlowPublishRequest,
    FlowSnapshotReply,
    FlowSnapshotRequest,
)
from schemas.services import (
    FetchReply,
    FetchRequest,
    MarkReply,
    MarkRequest,
    RegisterRequest,
    ReplayReply,
    ReplayRequest,
    ReplayStopReply,
    ReplayStopRequest,
    ServiceInfo,
    ServiceListReply,
    ServiceListRequest,
    TrimReply,
    TrimRequest,
    UnregisterRequest,
)
from schemas.status import StatusReply

LAG = Gauge("kiki_service_lag", "Records not consumed by a registered service", ["service"], registry=metrics.REGISTRY)
OLDEST = Gauge(
    "kiki_service_oldest_seconds",
    "Age of the oldest record that a registered service has not consumed",
    ["service"],
    registry=metrics.REGISTRY,
)

_log = structlog.get_logger("services")


class ServicesAgent:
    """Gives registered services the record in order, and keeps their places in it."""

    name = "services"

    def __init__(self, settings: ServicesSettings) -> None:
        self.settings = settings
        self._bus: Bus
        self._replays: Replays
        self._cursors: Cursors
        self._ready = False
        self._locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self._holders: dict[str, _Holder] = {}
        self._gauge_names: set[str] = set()
        self._service_count = 0
        self._stacks = load_stacks()

    @asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        """Adopt registrations of an earlier version, and watch the lags for as long as the agent runs."""
        with translate_errors("the registered services cannot be read"):
            await reconcile_consumers(bus)
        self._bus, self._cursors = bus, Cursors(bus)
        async with anyio.create_task_group() as tasks:
            self._replays = Replays(bus, tasks)
            tasks.start_soon(self._watch, bus)
            self._ready = True
            try:
                yield
            finally:
                self._ready = False
                tasks.cancel_scope.cancel()

    def handlers(self) -> Sequence[Handler[Any]]:
        """Reads no events."""
        return ()

    def endpoints(self) -> Sequence[Endpoint]:
        """Answers the requests of registered services, of replays and of kiki-flow."""
        return (
            Endpoint(SERVICES_REGISTER, self._register),
            Endpoint(SERVICES_UNREGISTER, self._unregister),
            Endpoint(SERVICES_LS, self._list_services),
            Endpoint(SERVICES_FETCH, self._fetch),
            Endpoint(SERVICES_MARK, self._mark),
            Endpoint(SERVICES_TRIM, self._trim),
            Endpoint(REPLAY_START, self._start_replay),
            Endpoint(REPLAY_STOP, self._stop_replay),
            Endpoint(FLOW_FETCH, self._flow_fetch),
            Endpoint(FLOW_SNAPSHOT, self._flow_snapshot),
            Endpoint(FLOW_PUBLISH, self._flow_publish),
        )

    def status(self) -> StatusReply:
        """Reports how many services are registered; their lags are the labelled gauges of this module."""
        return StatusReply(agent=self.name, ready=self._ready, gauges={"registered": float(self._service_count)})

    async def _register(self, request: RegisterRequest) -> ServiceInfo:
        service = make_registration(request)
        async with self._lock(service.name):
            await register(self._bus, service, new_only=request.begin == "new")
        _log.info("service registered", service=service.name, subjects=service.subjects)
        return await self._cursors.describe(await find_service(self._bus, service.name))

    async def _unregister(self, request: UnregisterRequest) -> ServiceInfo:
        async with self._lock(request.name):
            info = await self._cursors.end(request.name)
            self._holders.pop(request.name, None)
            self._forget_gauges({request.name})
        _log.info("service unregistered", service=request.name, place=info.place)
        return info

    async def _list_services(self, _: ServiceListRequest) -> ServiceListReply:
        with translate_errors("the registered services cannot be read", advice="ask again"):
            services = await read_services(self._bus)
            others = await list_strangers(self._bus, services)
        infos = [await self._cursors.describe(standing) for standing in services]
        return ServiceListReply(services=tuple(infos), others=tuple(others))

    async def _fetch(self, request: FetchRequest) -> FetchReply:
        until = anyio.current_time() + request.wait
        # Short looks, each under the lock: a mark or another fetch of the same service need not wait for the whole
        # wait.
        while True:
            async with self._lock(request.name):
                self._refuse_others(request)
                batch = await self._cursors.fetch_oldest(
                    request.name, limit=request.limit, most_bytes=self.settings.reply_bytes
                )
                if batch.records:
                    self._hold(request, batch)
            seconds_left = until - anyio.current_time()
            if batch.records or seconds_left <= 0:
                return FetchReply(records=tuple(batch.records))
            await anyio.sleep(min(self.settings.poll, seconds_left))

    async def _mark(self, request: MarkRequest) -> MarkReply:
        async with self._lock(request.name):
            reply = await self._cursors.mark(request.name, request.ids, request.de_id)
            self._holders.pop(request.name, None)
        return reply

    async def _trim(self, request: TrimRequest) -> TrimReply:
        with translate_errors("the record was not trimmed", advice="ask again"):
            for standing in await read_services(self._bus):
                await self._settle(standing)
            reply = await trim(self._bus, before=request.before)
        _log.info("record trimmed", dropped=reply.dropped, held_by=reply.held_by)
        return reply

    async def _start_replay(self, request: ReplayRequest) -> ReplayReply:
        return ReplayReply(replay_id=self._replays.start(request))

    async def _stop_replay(self, request: ReplayStopRequest) -> ReplayStopReply:
        return ReplayStopReply(sent=self._replays.stop(request.replay_id))

    async def _flow_fetch(self, request: FlowFetchRequest) -> FlowFetchReply:
        return await flow.fetch(self._bus, request, self._stacks, most_bytes=self.settings.reply_bytes)

    async def _flow_snapshot(self, request: FlowSnapshotRequest) -> FlowSnapshotReply:
        return await flow.take_snapshot(self._bus, request, self._stacks)

    async def _flow_publish(self, request: FlowPublishRequest) -> FlowPublishReply:
        return await flow.publish(self._bus, request, self._stacks)

    async def _settle(self, standing: ServiceStanding, *, is_old: bool = False) -> ServiceStanding:
        """Bring to the log what only this agent knows of a service; ``is_old``: whether the log may soon drop it."""
        if not is_old and self._cursors.find_passed(standing) <= standing.passed:
            return standing
        name = standing.entry.name
        async with self._lock(name):
            with suppress(Refused, InvalidInput):  # another agent came between, or the registration has ended
                return await self._cursors.settle(await find_service(self._bus, name))
        return standing

    def _lock(self, name: str) -> anyio.Lock:
        """The lock of a service; it lasts as long as somebody holds it or waits for it."""
        return self._locks.setdefault(name, anyio.Lock())

    def _refuse_others(self, request: FetchRequest) -> None:
        """Raise Refused while another holder's time is not over."""
        holder = self._holders.get(request.name)
        if holder is None or holder.name == request.holder or anyio.current_time() >= holder.until:
            return
        seconds_left = holder.until - anyio.current_time()
        raise Refused(
            f"the records are in the hands of '{holder.name}' for {seconds_left:.1f} s more; ask again then.",
            code="in_hand",
            param="holder",
        )

    def _hold(self, request: FetchRequest, batch: FetchBatch) -> None:
        self._holders[request.name] = _Holder(request.holder, anyio.current_time() + batch.ack_wait)

    async def _watch(self, bus: Bus) -> None:
        while True:
            with _count_faults():
                await self._measure(bus)
            await anyio.sleep(self.settings.watch_interval)

    async def _measure(self, bus: Bus) -> None:
        with translate_errors("the registered services cannot be read"):
            services = await read_services(bus)
            size = await measure_stream(bus, SERVICES)
        names = {standing.entry.name for standing in services}
        self._forget_gauges(self._gauge_names - names)
        self._service_count = len(names)
        for standing in services:
            with _count_faults():
                await self._measure_service(bus, standing, size)

    async def _measure_service(self, bus: Bus, standing: ServiceStanding, size: StreamSize) -> None:
        """Show how far a service is, and bring what is only in memory to the log, and the log to its consumer."""
        name = standing.entry.name
        info = await self._cursors.describe(standing)
        LAG.labels(name).set(info.lag)
        OLDEST.labels(name).set(await self._cursors.read_age(standing))
        self._gauge_names.add(name)
        standing = await self._settle(standing, is_old=_is_old(standing, size))
        await follow_log(bus, read_entry(standing.entry), passed=standing.passed)

    def _forget_gauges(self, names: set[str]) -> None:
        for name in names & self._gauge_names:
            LAG.remove(name)
            OLDEST.remove(name)
        self._gauge_names -= names


class _Holder:
    """The holder of a service's records, and until when (in seconds of :func:`anyio.current_time`)."""

    def __init__(self, name: str, until: float) -> None:
        self.name = name
        self.until = until


@contextmanager
def _count_faults() -> Iterator[None]:
    """Count whatever goes wrong while the lags are watched: it ends neither the watch nor the agent."""
    try:
        yield
    except Exception as error:  # noqa: BLE001
        metrics.count_degraded("services.gauges", str(error) or type(error).__name__)


def _is_old(standing: ServiceStanding, size: StreamSize) -> bool:
    """Whether the log may soon drop the registration: it is half full, and has that in its older half."""
    return size.bytes > SMALL_MAX_BYTES // 2 and standing.entry_seq < (size.first_seq + size.last_seq) // 2
