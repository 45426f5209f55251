"""Two runtimes on one broker, each with a prefix of its own, share nothing."""

import pytest

from bus import record
from bus.connection import Bus, BusSettings, connect
from bus.consumers import read_consumer
from bus.handler import Consumer, Delivery, Handler
from bus.stream import measure_stream, measure_streams, read_message
from bus.subjects import Subjects
from bus.topology import EPISODES, STREAMS, TURNS
from bus.turns.events import find_end
from schemas.events import STAGE_EVENTS, Event, QueryReceived, TurnCancelled
from schemas.services import ServiceRegistered
from tests.bus.conftest import eventually, query, reply, run_beside, run_consumer

pytestmark = pytest.mark.anyio


async def test_runtimes_of_two_prefixes_share_neither_streams_nor_consumers(bus: Bus, nats_url: str) -> None:
    seen: list[str] = []

    async def handle_first(event: QueryReceived, delivery: Delivery) -> Event:
        seen.append("first")
        return reply(event)

    async def handle_second(event: QueryReceived, delivery: Delivery) -> Event:
        seen.append("second")
        return reply(event)

    async with connect(BusSettings(url=nats_url, prefix="lab2"), name="second") as other:
        await other.reconcile()
        try:
            handler = Handler(stage="echo", event=QueryReceived, handle=handle_second)
            consumer = Consumer(other, handler, fetch_seconds=0.5, check_seconds=0.5)
            await consumer.declare()
            async with run_consumer(bus, handle_first), run_beside(consumer):
                event = query()
                await other.publish(event)
                end = await eventually(lambda: find_end(other, event.envelope.turn_id))
                assert isinstance(end, TurnCancelled)
                assert await find_end(bus, event.envelope.turn_id) is None
            assert seen == ["second"]
            assert set(await measure_streams(other)) == set(STREAMS)
            assert (await measure_stream(other, TURNS)).messages == 1
            assert (await measure_stream(bus, TURNS)).messages == 0
            stored = await read_message(other, TURNS, 1)
            assert stored is not None
            assert stored.subject == f"lab2.query.received.{event.envelope.turn_id}"
            assert await read_consumer(other, TURNS, "echo") is not None
            assert await record.find_entry(other, event.envelope.turn_id) is None
            names = {str(info.config.name) for info in await bus.js.streams_info()}
            assert {TURNS, f"lab2-{TURNS}", EPISODES, f"lab2-{EPISODES}"} <= names
        finally:
            for name in STREAMS:
                await other.js.delete_stream(other.subjects.stream(name))


@pytest.mark.parametrize("prefix", ["kiki", "lab-2"])
def test_a_subject_says_its_kind_and_its_key(prefix: str) -> None:
    subjects = Subjects(prefix)
    for kind in STAGE_EVENTS:
        subject = subjects.stage(kind.subject, "t-1")
        assert (Subjects.kind(subject), Subjects.key(subject)) == (kind.subject, "t-1")
    registered = subjects.stage(ServiceRegistered.subject, "dream")
    assert (Subjects.kind(registered), Subjects.key(registered)) == ("service.registered", "dream")


def test_a_runtime_owns_the_subjects_of_its_prefix_alone() -> None:
    subjects = Subjects("kiki")
    assert subjects.owns("kiki.query.received.t")
    assert subjects.owns("kiki")
    assert not subjects.owns("kikis.query.received.t")
    assert not subjects.owns("_INBOX.kiki.1")
