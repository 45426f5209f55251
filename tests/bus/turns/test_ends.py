"""A turn has one end: the first that is stored, whoever published others and under which message ids."""

from typing import Any

import pytest

from bus.connection import Bus
from bus.subjects import MSG_ID
from bus.topology import ANSWERS
from bus.turns.events import find_end, find_first
from schemas.codec import encode
from schemas.errors import InvalidStage, Unavailable
from schemas.events import AnswerReady, DissentRaised, DissentWaived, Event, TurnCancelled, TurnFailed, failure
from schemas.findings import Dissent
from tests.agents.memory.scenes import answer_ready, turn

pytestmark = pytest.mark.anyio
DISSENTS: tuple[type[DissentRaised | DissentWaived], ...] = (DissentRaised, DissentWaived)


def ends(envelope: Any) -> dict[str, Event]:
    return {
        "answered": answer_ready(envelope),
        "failed": failure(envelope, "router", Unavailable("away")),
        "cancelled": TurnCancelled(envelope=envelope.next(TurnCancelled.subject), reason="left"),
    }


@pytest.mark.parametrize("first", ["answered", "failed", "cancelled"])
async def test_the_first_end_counts_and_the_others_are_duplicates(bus: Bus, first: str) -> None:
    envelope = turn()
    events = ends(envelope)
    assert await bus.publish(events[first])
    for name, event in events.items():
        assert not await bus.publish(event), name
    assert await find_end(bus, envelope.turn_id) == events[first]
    assert (await bus.js.stream_info(ANSWERS)).state.messages == 1


async def test_a_strangers_message_id_changes_nothing(bus: Bus) -> None:
    envelope = turn()
    events = ends(envelope)
    await bus.publish(events["answered"])
    for name in ("failed", "cancelled"):
        event = events[name]
        await bus.js.publish(bus.subjects.of(event), encode(event), headers={MSG_ID: f"{name} by a stranger"})
    assert isinstance(await find_end(bus, envelope.turn_id), AnswerReady)
    assert (await bus.js.stream_info(ANSWERS)).state.messages == 3


async def test_a_turn_that_runs_has_no_end(bus: Bus) -> None:
    assert await find_end(bus, turn().turn_id) is None


async def test_an_end_that_cannot_be_read_names_its_stage(bus: Bus) -> None:
    envelope = turn()
    await bus.js.publish(bus.subjects.stage(AnswerReady.subject, envelope.turn_id), b"{}")
    await bus.publish(ends(envelope)["failed"])
    with pytest.raises(InvalidStage, match="antibias") as caught:
        await find_end(bus, envelope.turn_id)
    assert caught.value.status == 502


async def test_the_first_verdict_counts_whatever_its_message_id_is(bus: Bus) -> None:
    envelope = turn()
    waived = DissentWaived(envelope=envelope.next("catfish"), dissent=Dissent(engaged=False, reason="ours"))
    raised = DissentRaised(
        envelope=envelope.next("rival"), dissent=Dissent(engaged=True, reason="a rival's", text="no")
    )
    await bus.js.publish(bus.subjects.stage(DissentRaised.subject, envelope.turn_id), b"not readable")
    await bus.publish(waived)
    await bus.js.publish(
        bus.subjects.of(raised), encode(raised), headers={MSG_ID: f"{envelope.turn_id}:dissent.raised"}
    )
    assert await find_first(bus, DISSENTS, envelope.turn_id) == waived
    assert await find_first(bus, DISSENTS, turn().turn_id) is None


async def test_a_failure_is_an_end(bus: Bus) -> None:
    envelope = turn()
    await bus.publish(ends(envelope)["failed"])
    end = await find_end(bus, envelope.turn_id)
    assert isinstance(end, TurnFailed)
    assert (end.stage, end.code, end.retryable) == ("router", "unavailable", True)
