"""A turn's story is what the stream kept, in order."""

import pytest

from bus import turn_events
from bus.connection import Bus
from schemas.errors import InvalidInput
from tests.bus.conftest import query, reply

pytestmark = pytest.mark.anyio


async def test_the_story_is_in_order_and_only_this_turns(bus: Bus) -> None:
    event, other = query(), query()
    for published in (event, other, reply(event)):
        await bus.publish(published)
    told = await turn_events.tell(bus, event.envelope.turn_id)
    assert [entry.event.subject for entry in told] == ["query.received", "turn.cancelled"]
    assert told[0].event == event
    consumers = await bus.js.consumers_info("TURNS")
    assert consumers == []


async def test_an_unknown_turn(bus: Bus) -> None:
    with pytest.raises(InvalidInput, match="no event of turn 'nope'"):
        await turn_events.tell(bus, "nope")
