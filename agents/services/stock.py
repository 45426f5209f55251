"""The durable consumers with which the stock tools see registered services, and pull from the record for themselves.

The log of marks is the truth and a consumer follows it: what is acknowledged here moves no service's place. A consumer
knows no filter, so only a service that reads everything has one.
"""

from contextlib import aclosing

import msgspec

from agents.services.registration import METADATA, Registration
from bus.connection import Bus
from bus.consumers import (
    CONFIRM_SECONDS,
    ConsumerDeclaration,
    ConsumerState,
    acknowledge,
    declare_consumer,
    delete_consumer,
    pull,
    read_consumer,
)
from bus.stream import read_stream
from bus.topology import EPISODES
from schemas.errors import InvalidInput

WINDOW = 1024
"""The most records that the consumer may have delivered and not seen acknowledged."""

_CATCH_UP = 256
"""Messages of one pull while a consumer is brought up to the log of marks."""


async def keep_consumer(bus: Bus, service: Registration, *, passed: int) -> None:
    """Make the service's durable consumer, or bring it to what this version declares.

    A new one begins after the record ``passed``. Nothing is done for a service that may have none.

    Raises:
        SetupError: the change would pass over records; the consumer is left as it is.
        Unavailable: the broker is away.
    """
    if not service.reads_everything:
        return
    declaration = ConsumerDeclaration(
        name=service.durable,
        filters=service.filters(bus.subjects),
        description=f"Follows the place of '{service.name}' in the record",
        ack_wait=service.ack_wait,
        window=WINDOW,
        after=passed,
        metadata={METADATA: msgspec.json.encode(service).decode()},
    )
    await declare_consumer(bus, EPISODES, declaration, removal=f"kiki services unregister {service.name}")


async def drop_consumer(bus: Bus, service: Registration) -> None:
    """Delete the service's durable consumer."""
    await delete_consumer(bus, EPISODES, service.durable)


def stranger_error(name: str) -> InvalidInput:
    """A registration is refused because a consumer that none made has the name of its own."""
    return InvalidInput(
        f"{EPISODES} has a consumer '{name}' that no registration made: choose another name, or remove it with "
        f"'nats consumer rm {EPISODES} {name} -f'.",
        code="name_taken",
        param="name",
    )


async def follow_log(bus: Bus, service: Registration, *, passed: int) -> None:
    """Acknowledge at the service's durable consumer what the log has as consumed; what comes after it is left alone."""
    consumer = await read_consumer(bus, EPISODES, service.durable) if service.reads_everything else None
    if consumer is None or consumer.acknowledged >= passed or not consumer.lag:
        return
    await _acknowledge_delivered(bus, service, consumer, passed)
    delivered = consumer.delivered
    if delivered >= passed or not consumer.pending:
        return
    async with pull(bus, EPISODES, service.durable) as puller:
        # An empty batch before ``passed`` means that the rest was deleted, so nothing is left to acknowledge.
        while delivered < passed and (
            batch := await puller.fetch(min(_CATCH_UP, passed - delivered), seconds=CONFIRM_SECONDS)
        ):
            for message in batch:
                delivered = max(delivered, message.stored.seq)
                await (message.acknowledge() if message.stored.seq <= passed else message.give_back())
    await bus.flush()


async def _acknowledge_delivered(bus: Bus, service: Registration, consumer: ConsumerState, passed: int) -> None:
    """Acknowledge what the consumer has delivered to whoever pulled from it."""
    until = min(passed, consumer.delivered)
    if until <= consumer.acknowledged:
        return
    messages = read_stream(bus, EPISODES, service.filters(bus.subjects), after=consumer.acknowledged, until=until)
    async with aclosing(messages):
        seqs = [stored.seq async for stored in messages]
    if seqs:
        await acknowledge(bus, EPISODES, service.durable, seqs)
