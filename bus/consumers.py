"""Durable consumers: how far each reader of a stream is, and consumers for services that register at run time.

The handlers' own consumers are declared in :mod:`bus.topology` and run by :mod:`bus.handler`. Every function raises
:class:`bus.errors.BrokerUnavailable` when the broker is away.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy

from bus.connection import Bus
from bus.errors import BROKER_ERRORS, NOT_FOUND, translate_errors
from bus.reconciliation import reconcile_consumer
from bus.stream import stored_message

CONFIRM_SECONDS = 2.0
"""Seconds that the broker may take to confirm an acknowledgement."""

_PAGE = 256
"""Consumers of one page of the broker's list; those of readers, which come and go, count, too."""


@dataclass(frozen=True, kw_only=True)
class ConsumerState:
    """How far a consumer is: two sequences of its stream, and two numbers of messages.

    Attributes:
        acknowledged: the sequence up to which every message is acknowledged.
        delivered: the sequence of the message that was delivered last.
        pending: how many messages are not delivered yet.
        awaiting_ack: how many messages are delivered and not acknowledged.
        filters: subjects of the messages that it delivers.
        is_read: whether somebody waits for its next message, or has one in hand.
        metadata: what it was created with.
    """

    name: str
    durable: bool
    acknowledged: int
    delivered: int
    pending: int
    awaiting_ack: int
    filters: tuple[str, ...] = ()
    is_read: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def lag(self) -> int:
        """Messages that are not acknowledged."""
        return self.pending + self.awaiting_ack


@dataclass(frozen=True, kw_only=True)
class ConsumerDeclaration:
    """A durable consumer as it should be.

    Attributes:
        name: of the consumer.
        filters: subjects of the messages that it delivers.
        description: for people.
        ack_wait: seconds after which a message that was not acknowledged is delivered again.
        window: the most messages that may be delivered and not acknowledged.
        after: the sequence after which a new one begins; one that exists stays where it is.
        metadata: stored with the consumer, see :class:`ConsumerState`.
    """

    name: str
    filters: Sequence[str]
    description: str
    ack_wait: float
    window: int
    after: int
    metadata: Mapping[str, str]


class PulledMessage:
    """A message that a consumer delivered, as the stream holds it."""

    def __init__(self, message: Msg) -> None:
        self.stored = stored_message(message)
        self._message = message

    async def acknowledge(self) -> None:
        """Tell the broker that the message is done."""
        with translate_errors(f"message {self.stored.seq} was not acknowledged"):
            await self._message.ack()

    async def give_back(self) -> None:
        """Have the broker deliver the message again, to whoever asks next."""
        with translate_errors(f"message {self.stored.seq} was not given back"):
            await self._message.nak()


class Puller:
    """Fetches messages of a durable consumer. Made by :func:`pull`."""

    def __init__(self, subscription: JetStreamContext.PullSubscription) -> None:
        self._subscription = subscription

    async def fetch(self, count: int, *, seconds: float) -> list[PulledMessage]:
        """At most ``count`` messages; an empty list when none came within ``seconds``."""
        with translate_errors("no messages could be fetched"):
            try:
                messages = await self._subscription.fetch(count, timeout=seconds)
            except TimeoutError:
                return []
        return [PulledMessage(message) for message in messages]


async def read_consumer(bus: Bus, stream: str, name: str) -> ConsumerState | None:
    """How far the consumer is; None when there is none of that name."""
    with translate_errors(f"consumer {name} of {stream} cannot be read"):
        try:
            return _state(await bus.js.consumer_info(bus.subjects.stream(stream), name))
        except NOT_FOUND:
            return None


async def read_consumers(bus: Bus, stream: str) -> list[ConsumerState]:
    """How far each consumer of a stream is."""
    states: list[ConsumerState] = []
    with translate_errors(f"the consumers of {stream} cannot be read"):
        while len(states) % _PAGE == 0:
            page = await bus.js.consumers_info(bus.subjects.stream(stream), offset=len(states))
            states += [_state(info) for info in page]
            if not page:
                break
    return states


async def declare_consumer(bus: Bus, stream: str, declaration: ConsumerDeclaration, *, removal: str) -> None:
    """Bring a durable consumer to its declaration, or make it when it is missing; one that exists keeps its position.

    ``removal`` is the command that removes the consumer; the error message names it.

    Raises:
        SetupError: an update would lose or repeat messages; the consumer is left as it is.
    """
    with translate_errors(f"consumer {declaration.name} of {stream} was not updated"):
        config = _config(declaration)
        with suppress(NOT_FOUND):
            existing = (await bus.js.consumer_info(bus.subjects.stream(stream), declaration.name)).config
            config = config.evolve(deliver_policy=existing.deliver_policy, opt_start_seq=existing.opt_start_seq)
        await reconcile_consumer(bus.js, bus.subjects.stream(stream), config, removal=removal)


async def delete_consumer(bus: Bus, stream: str, name: str) -> None:
    """Delete the consumer if it exists."""
    with translate_errors(f"consumer {name} of {stream} was not deleted"), suppress(NOT_FOUND):
        await bus.js.delete_consumer(bus.subjects.stream(stream), name)


@asynccontextmanager
async def pull(bus: Bus, stream: str, name: str) -> AsyncIterator[Puller]:
    """The messages of a durable consumer, as long as the context lasts."""
    with translate_errors(f"consumer {name} of {stream} cannot be read"):
        subscription = await bus.js.pull_subscribe_bind(durable=name, stream=bus.subjects.stream(stream))
    try:
        yield Puller(subscription)
    finally:
        with suppress(*BROKER_ERRORS):
            await subscription.unsubscribe()


async def acknowledge(bus: Bus, stream: str, name: str, seqs: Sequence[int]) -> None:
    """Acknowledge messages that this or another process fetched; returns when the broker has confirmed the last one.

    An acknowledgement goes to the reply subject of the delivered message. With explicit acknowledgement the broker
    reads only the stream's sequence from that subject (ADR-15), so any process can build it, not only the one that
    fetched.
    """
    *subjects, last_subject = (f"$JS.ACK.{bus.subjects.stream(stream)}.{name}.1.{seq}.1.0.0" for seq in seqs)
    with translate_errors(f"{stream} took no acknowledgement"):
        for subject in subjects:
            await bus.client.publish(subject, b"+ACK")
        await bus.client.request(last_subject, b"+ACK", timeout=CONFIRM_SECONDS)


def _state(info: ConsumerInfo) -> ConsumerState:
    return ConsumerState(
        name=str(info.name),
        durable=bool(info.config and info.config.durable_name),
        acknowledged=info.ack_floor.stream_seq if info.ack_floor else 0,
        delivered=info.delivered.stream_seq if info.delivered else 0,
        pending=info.num_pending or 0,
        awaiting_ack=info.num_ack_pending or 0,
        filters=_filters(info),
        is_read=bool(info.num_waiting or info.num_ack_pending or info.push_bound),
        metadata=(info.config.metadata if info.config else None) or {},
    )


def _filters(info: ConsumerInfo) -> tuple[str, ...]:
    if info.config is None:
        return ()
    return tuple(info.config.filter_subjects or [info.config.filter_subject or ">"])


def _config(declaration: ConsumerDeclaration) -> ConsumerConfig:
    return ConsumerConfig(
        durable_name=declaration.name,
        name=declaration.name,
        description=declaration.description,
        filter_subjects=list(declaration.filters),
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=declaration.ack_wait,
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE if declaration.after else DeliverPolicy.ALL,
        opt_start_seq=declaration.after + 1 if declaration.after else None,
        max_deliver=-1,
        max_ack_pending=declaration.window,
        metadata=dict(declaration.metadata),
    )
