"""A turn's story is what the stream kept, in order."""

import pytest

from bus.connection import Bus
from bus.stream import append
from bus.topology import TURNS
from bus.turns.events import read_turn_events
from schemas.errors import InvalidInput
from tests.bus.conftest import query, reply

pytestmark = pytest.mark.anyio


async def test_a_story_is_in_order_and_of_one_turn(bus: Bus) -> None:
    event, foreign_event = query(), query()
    for message in (event, foreign_event, reply(event)):
        await bus.publish(message)
    entries = await read_turn_events(bus, event.envelope.turn_id)
    assert [entry.event.subject for entry in entries] == ["query.received", "turn.cancelled"]
    assert entries[0].event == event
    consumers = await bus.js.consumers_info("TURNS")
    assert consumers == []


async def test_an_unreadable_event_hides_none_of_the_others(bus: Bus) -> None:
    event = query()
    await bus.publish(event)
    await append(bus, bus.subjects.stage("episode.recorded", event.envelope.turn_id), b"{}")
    (entry,) = await read_turn_events(bus, event.envelope.turn_id)
    assert entry.event == event


async def test_a_kind_of_event_that_nobody_knows_is_passed_over(bus: Bus) -> None:
    event = query()
    await bus.publish(event)
    config = (await bus.js.stream_info(TURNS)).config
    await bus.js.update_stream(config.evolve(subjects=[*(config.subjects or []), "kiki.query.surprised.*"]))
    await append(bus, bus.subjects.stage("query.surprised", event.envelope.turn_id), b"\x00")
    (entry,) = await read_turn_events(bus, event.envelope.turn_id)
    assert entry.event == event


async def test_an_unknown_turn_is_refused(bus: Bus) -> None:
    with pytest.raises(InvalidInput, match="no event of turn 'nope'"):
        await read_turn_events(bus, "nope")
