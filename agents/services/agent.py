"""The record for other services, as an agent: register, fetch, mark, replay, and how far behind each service is."""

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import structlog
from prometheus_client import Gauge

from agents.services import cursor, flow
from agents.services.registration import (
    Registration,
    make_registration,
    register,
    registration_of,
    service_info,
    update_registration,
)
from agents.services.retention import trim
from agents.services.running_replays import Replays
from agents.services.settings import ServicesSettings
from agents.services.stacks import load_stacks
from bus import metrics
from bus.agent import Endpoint
from bus.connection import Bus
from bus.consumers import ConsumerState, delete_consumer, read_consumers
from bus.errors import translate_errors
from bus.handler import Handler
from bus.stream import read_next
from bus.topology import EPISODES
from schemas.errors import InvalidInput, KikiError, Refused, SetupError
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
        self._ready = False
        self._locks: dict[str, anyio.Lock] = defaultdict(anyio.Lock)
        self._holders: dict[str, _Holder] = {}
        self._gauge_names: set[str] = set()
        self._service_count = 0
        self._stacks = load_stacks()

    @asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        """Bring the registered consumers to their declarations, and watch the lags for as long as the agent runs."""
        await self._reconcile_consumers(bus)
        self._bus = bus
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
            Endpoint(verb="services.register", request=RegisterRequest, handle=self._register),
            Endpoint(verb="services.unregister", request=UnregisterRequest, handle=self._unregister),
            Endpoint(verb="services.ls", request=ServiceListRequest, handle=self._list_services),
            Endpoint(verb="services.fetch", request=FetchRequest, handle=self._fetch),
            Endpoint(verb="services.mark", request=MarkRequest, handle=self._mark),
            Endpoint(verb="services.trim", request=TrimRequest, handle=self._trim),
            Endpoint(verb="replay.start", request=ReplayRequest, handle=self._start_replay),
            Endpoint(verb="replay.stop", request=ReplayStopRequest, handle=self._stop_replay),
            Endpoint(verb="flow.fetch", request=FlowFetchRequest, handle=self._flow_fetch),
            Endpoint(verb="flow.snapshot", request=FlowSnapshotRequest, handle=self._flow_snapshot),
            Endpoint(verb="flow.publish", request=FlowPublishRequest, handle=self._flow_publish),
        )

    def status(self) -> StatusReply:
        """Reports how many services are registered; their lags are the labelled gauges of this module."""
        return StatusReply(agent=self.name, ready=self._ready, gauges={"registered": float(self._service_count)})

    async def _register(self, request: RegisterRequest) -> ServiceInfo:
        bus, service = self._bus, make_registration(request)
        if not await register(bus, service, new_only=request.begin == "new"):
            raise InvalidInput(
                f"the name '{service.name}' is taken: choose another, or unregister it first.",
                code="name_taken",
                param="name",
            )
        _log.info("service registered", service=service.name, subjects=service.subjects)
        return await self._read_info(service.name)

    async def _unregister(self, request: UnregisterRequest) -> ServiceInfo:
        bus = self._bus
        async with self._locks[request.name]:
            info = await self._read_info(request.name)
            with translate_errors(f"'{request.name}' was not unregistered"):
                await delete_consumer(bus, EPISODES, (await cursor.find_service(bus, request.name))[0].durable)
            self._holders.pop(request.name, None)
            self._forget_gauges({request.name})
        _log.info("service unregistered", service=request.name, place=info.place)
        return info

    async def _list_services(self, _: ServiceListRequest) -> ServiceListReply:
        names = [service.name for service, _ in await self._read_registrations(self._bus)]
        return ServiceListReply(services=tuple([await self._read_info(name) for name in sorted(names)]))

    async def _fetch(self, request: FetchRequest) -> FetchReply:
        bus, settings = self._bus, self.settings
        until = anyio.current_time() + request.wait
        # Short pulls, each under the lock: a mark or another fetch of the same service need not wait for the whole
        # wait.
        while True:
            async with self._locks[request.name]:
                self._refuse_others(request)
                seconds_left = until - anyio.current_time()
                records = await cursor.fetch_oldest(
                    bus,
                    request.name,
                    limit=request.limit,
                    seconds=min(settings.poll, max(0.0, seconds_left)),
                    most_bytes=settings.reply_bytes,
                )
                if records:
                    await self._hold(request)
            if records or seconds_left <= 0:
                return FetchReply(records=tuple(records))

    async def _mark(self, request: MarkRequest) -> MarkReply:
        async with self._locks[request.name]:
            reply = await cursor.mark(self._bus, request.name, request.ids, request.de_id)
            self._holders.pop(request.name, None)
        return reply

    async def _trim(self, request: TrimRequest) -> TrimReply:
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

    async def _hold(self, request: FetchRequest) -> None:
        service, _ = await cursor.find_service(self._bus, request.name)
        self._holders[request.name] = _Holder(request.holder, anyio.current_time() + service.ack_wait)

    async def _read_info(self, name: str) -> ServiceInfo:
        standing = await cursor.read_standing(self._bus, name)
        return service_info(standing.registration, place=standing.place, delivered=standing.delivered, lag=standing.lag)

    async def _read_registrations(self, bus: Bus) -> list[tuple[Registration, ConsumerState]]:
        with cursor.translate_record_errors():
            consumers = await read_consumers(bus, EPISODES)
        return [(service, consumer) for consumer in consumers if (service := registration_of(consumer)) is not None]

    async def _reconcile_consumers(self, bus: Bus) -> None:
        """Bring registered consumers to their declarations; one that refuses is counted and serves as it is.

        It belongs to another service, so it must not keep the agent from starting.
        """
        for service, consumer in await self._read_registrations(bus):
            try:
                await update_registration(bus, service, consumer)
            except SetupError as error:
                metrics.count_degraded("services.consumer", error.message)

    async def _watch(self, bus: Bus) -> None:
        while True:
            try:
                await self._measure(bus)
            except KikiError as error:
                metrics.count_degraded("services.gauges", error.message)
            await anyio.sleep(self.settings.watch_interval)

    async def _measure(self, bus: Bus) -> None:
        services = await self._read_registrations(bus)
        names = {service.name for service, _ in services}
        self._forget_gauges(self._gauge_names - names)
        self._service_count = len(names)
        for service, consumer in services:
            LAG.labels(service.name).set(consumer.lag)
            OLDEST.labels(service.name).set(await _read_age(bus, service, consumer))
            self._gauge_names.add(service.name)

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


async def _read_age(bus: Bus, service: Registration, consumer: ConsumerState) -> float:
    """The age in seconds of the oldest record that the service has not consumed; 0 when there is none."""
    times = []
    for subject in service.filters(bus.subjects):
        message = await read_next(bus, EPISODES, consumer.acknowledged + 1, subject)
        if message is not None:
            times.append(message.stored_at.timestamp())
    return max(0.0, time.time() - min(times)) if times else 0.0
