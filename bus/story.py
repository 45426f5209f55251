"""A turn's story again: every stored event of a turn, in the order of the stream."""

from dataclasses import dataclass
from datetime import datetime

import nats.errors
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from bus import metrics
from bus.connection import Bus
from bus.topology import EPISODES, TURNS
from schemas.codec import decode
from schemas.errors import InvalidInput
from schemas.events import STAGE_EVENTS, EpisodeRecorded, Event

_ALL: tuple[type[Event], ...] = (*STAGE_EVENTS, EpisodeRecorded)
_KINDS = {kind.subject: kind for kind in _ALL}
_BATCH = 64


@dataclass(frozen=True)
class Told:
    """One stored event with its sequence in the stream and the broker's time."""

    seq: int
    stored_at: datetime
    event: Event


async def tell(bus: Bus, turn_id: str) -> list[Told]:
    """The turn's events, then its episode.

    Raises:
        InvalidInput: nothing of that turn is stored (it may be older than the stream keeps).
    """
    turn = await _read(bus, TURNS, bus.subjects.turn(turn_id))
    record = await _read(bus, EPISODES, bus.subjects.stage(EpisodeRecorded.subject, turn_id))
    if not turn and not record:
        raise InvalidInput(f"no event of turn '{turn_id}' is stored; turns are kept for an hour.", param="turn_id")
    return turn + record


async def _read(bus: Bus, stream: str, subject: str) -> list[Told]:
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.NONE,
        filter_subject=subject,
        inactive_threshold=10.0,
        mem_storage=True,
    )
    info = await bus.js.add_consumer(stream, config)
    subscription = await bus.js.pull_subscribe_bind(consumer=info.name, stream=stream)
    found: list[Told] = []
    pending = info.num_pending or 0
    try:
        while len(found) < pending:
            for message in await subscription.fetch(min(_BATCH, pending - len(found)), timeout=2.0):
                noun, verb = message.subject.split(".")[-3:-1]
                meta = message.metadata
                event = decode(_KINDS[f"{noun}.{verb}"], message.data)
                found.append(Told(meta.sequence.stream, meta.timestamp, event))
    except nats.errors.TimeoutError:
        metrics.degraded("story.incomplete", f"{len(found)} of {pending} events of {subject} came before the time-out.")
    finally:
        await subscription.unsubscribe()
        await bus.js.delete_consumer(stream, info.name)
    return found
