"""Moving the readers of a stage's event when a guest comes between them, or leaves.

A guest that comes after a stage publishes what it makes of the stage's event under its own noun, and whoever read the
stage's event reads that instead (:meth:`bus.subjects.Subjects.input_of`). A reader's durable consumer cannot keep its
place there: what it has not read may lie before its position. So it is made anew and reads the last hour again, where
it passes over the turns that have ended; of what was under way, no event is stored twice, for its message id is known.
"""

from collections.abc import Collection, Mapping

import structlog

from bus.connection import Bus
from bus.consumers import delete_consumer, read_consumer
from bus.errors import NOT_FOUND, translate_errors
from bus.topology import TURNS

_log = structlog.get_logger("bus")


async def move_readers(bus: Bus, readers: Mapping[str, str]) -> None:
    """Remove the consumers that read another event than the settings say, so that their agents make them anew.

    ``readers`` are stages with the events that they read without guests (``{"memory": "query.routed"}``). What guests
    that left have published goes, and their consumers; what they read is still there. Call it before the agents start.

    Raises:
        Unavailable: the broker is away.
    """
    chains = {noun_verb: bus.subjects.guests.get(noun_verb, ()) for noun_verb in readers.values()}
    stages = {**readers, **{guest: noun_verb for noun_verb, chain in chains.items() for guest in chain}}
    for stage, noun_verb in stages.items():
        consumer = await read_consumer(bus, TURNS, stage)
        wanted = bus.subjects.stage(bus.subjects.input_of(stage, noun_verb))
        filters = consumer.filters if consumer is not None else ()
        if len(filters) != 1 or filters[0] in (wanted, ">"):
            continue
        await delete_consumer(bus, TURNS, stage)
        _log.info("reader moved", stage=stage, reads=wanted, before=filters[0])
    await _forget_former(bus, {noun_verb.partition(".")[2] for noun_verb in chains})


async def _forget_former(bus: Bus, verbs: Collection[str]) -> None:
    """Remove what guests that left have in the stream of turns, which else would not give their subjects up."""
    stream = bus.subjects.stream(TURNS)
    with translate_errors(f"guests that left cannot be removed from {stream}"):
        try:
            subjects = (await bus.js.stream_info(stream)).config.subjects or []
        except NOT_FOUND:
            return
        for subject in set(subjects) - set(bus.subjects.turns):
            guest, _, verb = bus.subjects.kind(subject).partition(".")
            if verb in verbs:
                await bus.js.purge_stream(stream, subject=subject)
                await delete_consumer(bus, TURNS, guest)
                _log.info("guest left", agent=guest)
