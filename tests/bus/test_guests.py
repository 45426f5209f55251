"""A guest that comes after a stage, and the move of those who read that stage, on a real broker."""

from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import msgspec
import pytest

from bus import metrics
from bus.agent import BaseAgent, run_agent
from bus.connection import Bus, connect
from bus.handler import Delivery, Handler
from bus.subjects import Subjects
from bus.testing import run_agents, sample_event, wait_for_event
from bus.topology import TURNS
from bus.turns.events import read_turn_events
from bus.turns.readers import move_readers
from schemas.errors import SetupError
from schemas.events import QueryRouted, RecallDone
from schemas.findings import Recall

pytestmark = pytest.mark.anyio

READERS = {"memory": "query.routed"}
CHAIN = {"query.routed": ("polish", "check")}


class Intent(BaseAgent):
    """Adds its name to the intent of what the router decided."""

    def __init__(self, name: str) -> None:
        self.name = name

    def handlers(self) -> Sequence[Handler[Any]]:
        return [Handler(stage=self.name, event=QueryRouted, handle=self.add)]

    async def add(self, event: QueryRouted, _: Delivery) -> QueryRouted:
        return msgspec.structs.replace(
            event, route=msgspec.structs.replace(event.route, intent=f"{event.route.intent}+{self.name}")
        )


class MemoryReader(BaseAgent):
    """The stage after the router: keeps the intents that it read."""

    name = "memory"

    def __init__(self) -> None:
        self.intents: list[str] = []

    def handlers(self) -> Sequence[Handler[Any]]:
        return [Handler(stage="memory", event=QueryRouted, handle=self.keep)]

    async def keep(self, event: QueryRouted, _: Delivery) -> RecallDone:
        self.intents.append(event.route.intent)
        return RecallDone(envelope=event.envelope, query=event.query, route=event.route, recall=Recall())


@asynccontextmanager
async def connect_with(bus: Bus, **chains: Any) -> Any:
    """Another connection to the same broker, as a process with these guests in its settings makes it."""
    guests = {noun_verb.replace("_", "."): chain for noun_verb, chain in chains.items()}
    async with connect(replace(bus.settings, guests=guests), name="guests") as other:
        await move_readers(other, READERS)
        await other.reconcile()
        yield other


async def test_guests_stand_between_a_stage_and_the_next_in_their_order(bus: Bus) -> None:
    reader = MemoryReader()
    async with (
        connect_with(bus, query_routed=("polish", "check")) as house,
        run_agents(house, Intent("polish"), Intent("check"), reader),
    ):
        routed = sample_event(QueryRouted)
        await house.publish(routed)
        await wait_for_event(house, RecallDone, routed.envelope.turn_id)
        last = await wait_for_event(house, QueryRouted, routed.envelope.turn_id, stage="check")
    assert reader.intents == ["base+polish+check"]
    assert last.route.intent == "base+polish+check"


async def test_turns_under_way_survive_a_guest_that_comes_and_one_that_leaves(bus: Bus) -> None:
    reader = MemoryReader()
    first, second, third = (sample_event(QueryRouted) for _ in range(3))
    async with run_agents(bus, reader):
        await bus.publish(first)
        await wait_for_event(bus, RecallDone, first.envelope.turn_id)
    await bus.publish(second)  # nobody reads it before the guest is there
    async with connect_with(bus, query_routed=("polish",)) as house:
        async with run_agents(house, Intent("polish")):
            await wait_for_event(house, QueryRouted, second.envelope.turn_id, stage="polish")
        await house.publish(third)  # nobody reads it before the guest has left
    async with connect_with(bus) as house, run_agents(house, reader):
        for routed in (second, third):
            await wait_for_event(house, RecallDone, routed.envelope.turn_id)
        info = await house.js.stream_info(TURNS)
        consumers = {consumer.name for consumer in await house.js.consumers_info(TURNS)}
    assert "kiki.polish.routed.*" not in (info.config.subjects or [])
    assert consumers == {"memory"}
    answers = await bus.js.stream_info(TURNS, subjects_filter="kiki.recall.done.*")
    assert set((answers.state.subjects or {}).values()) == {1}


async def test_readers_stay_where_the_settings_have_them(bus: Bus) -> None:
    async with connect_with(bus, query_routed=("polish",)) as house, run_agents(house, MemoryReader()):
        before = await house.js.consumer_info(TURNS, "memory")
    async with connect_with(bus, query_routed=("polish",)) as house:
        after = await house.js.consumer_info(TURNS, "memory")
    assert after.created == before.created


async def test_a_guest_that_does_not_read_its_stage_is_refused(bus: Bus) -> None:
    async with connect_with(bus, query_routed=("polish",)) as house:
        with pytest.raises(SetupError, match=r"no handler of query\.routed") as caught:
            await run_agent(type("Polish", (BaseAgent,), {"name": "polish"})(), house)
    assert caught.value.param == "agents.polish.after"


async def test_a_guest_without_a_place_changes_nothing_and_is_named(bus: Bus) -> None:
    before = metrics.REGISTRY.get_sample_value("kiki_degraded_total", {"path": "guest.unplaced"}) or 0.0
    reader = MemoryReader()
    async with run_agents(bus, Intent("polish"), reader):
        routed = sample_event(QueryRouted)
        await bus.publish(routed)
        await wait_for_event(bus, RecallDone, routed.envelope.turn_id)
        with anyio.fail_after(5):
            while metrics.REGISTRY.get_sample_value("kiki_degraded_total", {"path": "guest.unplaced"}) != before + 1:
                await anyio.sleep(0.02)
    assert reader.intents == ["base"]


async def test_a_turn_that_is_read_back_has_what_its_guests_published(bus: Bus) -> None:
    async with connect_with(bus, query_routed=("polish",)) as house, run_agents(house, Intent("polish")):
        routed = sample_event(QueryRouted)
        await house.publish(routed)
        await wait_for_event(house, QueryRouted, routed.envelope.turn_id, stage="polish")
        story = await read_turn_events(house, routed.envelope.turn_id)
    assert [(entry.subject, entry.guest) for entry in story] == [("query.routed", ""), ("polish.routed", "polish")]


@pytest.mark.parametrize(
    ("chains", "change_answers"),
    [
        ({}, False),
        ({"query.routed": ("a",)}, False),
        ({"infer.done": ("a",)}, True),
        ({"negotiate.done": ("a",)}, True),
    ],
)
def test_guests_that_read_the_answer_may_change_it(chains: dict[str, tuple[str, ...]], change_answers: bool) -> None:
    assert Subjects("kiki", chains).change_answers is change_answers
