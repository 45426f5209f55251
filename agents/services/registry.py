"""Who is registered: registrations begin and end in the log SERVICES, and are adopted from folders of before.

An earlier version kept a registration in its durable consumer alone; one whose name the log does not know is written to
it at the agent's start, with its place.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace as replace_standing
from functools import partial

from msgspec.structs import replace

from agents.services.registration import Registration, make_entry, read_entry, registration_of
from agents.services.stock import drop_consumer, keep_consumer, stranger_error
from bus import metrics
from bus.connection import Bus
from bus.consumers import ConsumerState, read_consumer, read_consumers
from bus.errors import SequenceConflict, translate_errors
from bus.record import DURABLE, ServiceStanding, parse_mark, read_service, read_services
from bus.stream import append, measure_stream, read_last, read_latest
from bus.topology import EPISODES, SERVICES
from schemas.codec import encode
from schemas.errors import InvalidInput, Refused, SetupError
from schemas.services import EpisodesConsumed, ServiceRegistered


async def find_service(bus: Bus, name: str) -> ServiceStanding:
    """How far the service of that name is, as the log has it.

    Raises:
        InvalidInput: nobody is registered under that name.
        Unavailable: the broker is away.
    """
    with translate_errors("the record cannot be reached", advice="ask again"):
        standing = await read_service(bus, name)
    if not isinstance(standing, ServiceStanding) or standing.entry.ended:
        raise InvalidInput(
            f"no service '{name}' is registered: 'services.register' takes a name.",
            code="service_not_found",
            param="name",
        )
    return standing


async def register(bus: Bus, service: Registration, *, new_only: bool) -> None:
    """Begin a registration. One whose consumer somebody removed comes back where it was when it asks for the same.

    Raises:
        InvalidInput: the name is taken.
        KikiError: the broker refuses the consumer, or is away.
    """
    with translate_errors(f"'{service.name}' was not registered"):
        standing = await read_service(bus, service.name)
        consumer = await read_consumer(bus, EPISODES, service.durable)
        if consumer is not None and registration_of(consumer) is None:
            raise stranger_error(consumer.name)
        if isinstance(standing, ServiceStanding) and not standing.entry.ended:
            known = read_entry(standing.entry)
            if consumer is not None or not known.reads_everything or not known.asks_the_same(service):
                raise _name_error(service.name)
            await keep_consumer(bus, known, passed=standing.passed)
            return
        if consumer is not None:
            await drop_consumer(bus, service)
        place = (await measure_stream(bus, EPISODES)).last_seq if new_only else 0
        marks = await read_last(bus, SERVICES, bus.subjects.stage(EpisodesConsumed.subject, service.name))
        entry = make_entry(service, place=place, delivered=place, marks_after=marks.seq if marks else 0)
        after = standing.entry_seq if isinstance(standing, ServiceStanding) else standing
        try:
            await append(bus, bus.subjects.stage(entry.subject, entry.name), encode(entry), after=after)
        except SequenceConflict as error:
            raise _name_error(service.name) from error
        await keep_consumer(bus, service, passed=place)


async def unregister(bus: Bus, standing: ServiceStanding) -> None:
    """End a registration; the log of its marks stays.

    Raises:
        Refused: another request for the service came between.
        Unavailable: the broker is away.
    """
    with translate_errors(f"'{standing.entry.name}' was not unregistered"):
        await write_standing(bus, standing, ended=True)
        await drop_consumer(bus, read_entry(standing.entry))


async def write_standing(
    bus: Bus, standing: ServiceStanding, *, passed: int = 0, delivered: int = 0, ended: bool = False
) -> ServiceStanding:
    """Write to the log how far a service is now, and return it.

    Raises:
        Refused: another request for the service came between.
    """
    entry = replace(
        standing.entry,
        place=standing.place,
        passed=max(passed, standing.passed),
        delivered=max(delivered, standing.delivered),
        ended=ended,
        at=time.time(),
    )
    try:
        seq = await append(bus, bus.subjects.stage(entry.subject, entry.name), encode(entry), after=standing.entry_seq)
    except SequenceConflict as error:
        raise Refused(f"another request for '{entry.name}' came between; ask again.", code="in_hand") from error
    return replace_standing(standing, entry=entry, entry_seq=seq)


async def list_strangers(bus: Bus, services: Sequence[ServiceStanding]) -> list[str]:
    """The record's durable consumers that are named like a service's, and that no registration stands behind."""
    known_names = {standing.durable for standing in services}
    consumers = await read_consumers(bus, EPISODES)
    names = [consumer.name for consumer in consumers if consumer.durable and consumer.name.startswith(DURABLE)]
    return sorted(name for name in names if name not in known_names)


async def reconcile_consumers(bus: Bus) -> None:
    """Adopt what the log does not know, and bring each service's durable consumer to today's declaration.

    A consumer that refuses is counted and left as it is: it belongs to another service, so it must not keep the agent
    from starting.
    """
    for consumer in await read_consumers(bus, EPISODES):
        if (service := registration_of(consumer)) is not None:
            await _adopt(bus, service, consumer)
    for standing in await read_services(bus):
        service = read_entry(standing.entry)
        try:
            await keep_consumer(bus, service, passed=standing.passed)
        except SetupError as error:
            metrics.count_degraded("services.consumer", error.message)


async def _adopt(bus: Bus, service: Registration, consumer: ConsumerState) -> None:
    """Write a registration that only its consumer knows to the log; remove a consumer that outlived its registration,
    or that may not give out what it would.

    For the version that made it, what the consumer had acknowledged was consumed, so its place is kept.
    """
    standing = await read_service(bus, service.name)
    if isinstance(standing, ServiceStanding):
        if standing.entry.ended or standing.entry.registration != service.id or not service.reads_everything:
            await drop_consumer(bus, service)
        return
    entry = make_entry(service, place=consumer.acknowledged, delivered=consumer.delivered, marks_after=0)
    parse = partial(parse_mark, entry, delivered=(await measure_stream(bus, EPISODES)).last_seq)
    last, _ = await read_latest(bus, SERVICES, bus.subjects.stage(EpisodesConsumed.subject, service.name), parse)
    place = max(entry.place, last.ids[-1] if last else 0)
    entry = replace(entry, place=place, passed=place, delivered=max(entry.delivered, place))
    with suppress(SequenceConflict):  # another agent that starts now has adopted it
        await append(bus, bus.subjects.stage(ServiceRegistered.subject, service.name), encode(entry), after=standing)
    if not service.reads_everything:
        await drop_consumer(bus, service)


def _name_error(name: str) -> InvalidInput:
    return InvalidInput(
        f"the name '{name}' is taken: choose another, or unregister it first.", code="name_taken", param="name"
    )
