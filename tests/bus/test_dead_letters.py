"""Dead letters are listed, shown and replayed."""

import pytest
from nats.js.api import AckPolicy, ConsumerConfig

from bus import dead_letters, metrics
from bus.connection import Bus
from bus.handler import Delivery
from bus.stream import append
from schemas.codec import encode
from schemas.errors import InvalidInput
from schemas.events import Event, QueryReceived, TurnCancelled, TurnFailed
from schemas.status import DeadLetter
from tests.bus.conftest import eventually, query, reply, run_consumer

pytestmark = pytest.mark.anyio


async def test_a_replayed_letter_is_a_turn_of_its_own_with_a_fresh_deadline(bus: Bus) -> None:
    mended = False

    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        if not mended:
            raise RuntimeError
        assert event.envelope.remaining > 60
        return reply(event)

    event = query(timeout=5)
    async with run_consumer(bus, handle, retry_delay=0.01, max_deliver=1):
        await bus.publish(event)

        async def list_letters() -> list[dead_letters.FiledLetter]:
            return [entry async for entry in dead_letters.read_letters(bus)]

        (filed,) = await eventually(list_letters)
        assert (await dead_letters.read_letter(bus, filed.seq)).letter == filed.letter
        mended = True
        subject = await dead_letters.replay(bus, filed.seq)
        kind, _, turn_id = subject.rpartition(".")
        assert kind == bus.subjects.stage("query.received", "").rstrip(".")
        assert turn_id != event.envelope.turn_id

        async def find_reply() -> TurnCancelled | None:
            return await bus.last(TurnCancelled, turn_id)

        await eventually(find_reply)
        assert await bus.last(TurnFailed, event.envelope.turn_id) is not None
        assert await list_letters() == []


async def test_a_missing_letter_is_refused(bus: Bus) -> None:
    with pytest.raises(InvalidInput, match="no dead letter 999") as caught:
        await dead_letters.read_letter(bus, 999)
    assert caught.value.param == "seq"


@pytest.mark.parametrize("data", [b"", b"{", b"{}", b"\xff\x00"])
async def test_a_letter_that_nobody_can_read_hides_none_and_stands_for_itself(bus: Bus, data: bytes) -> None:
    await append(bus, bus.subjects.dead("router", "tests"), data)
    letter = DeadLetter(
        subject="a", stream="TURNS", consumer="b", reason="c", deliveries=1, headers={}, payload=b"d", failed_at=1.0
    )
    await append(bus, bus.subjects.dead("router", "tests"), encode(letter))
    before = metrics.DEGRADED.labels("dead.unreadable")._value.get()
    first, second = [entry async for entry in dead_letters.read_letters(bus)]
    assert metrics.DEGRADED.labels("dead.unreadable")._value.get() == before + 1
    assert (first.seq, first.is_readable, first.letter.consumer, first.letter.payload) == (1, False, "router", data)
    assert first.letter.reason.startswith("unreadable: ")
    assert (second.seq, second.is_readable, second.letter) == (2, True, letter)
    assert await dead_letters.read_letter(bus, 1) == first
    with pytest.raises(InvalidInput, match="nats stream rmm DEAD 1 -f") as refusal:
        await dead_letters.replay(bus, 1)
    assert refusal.value.param == "seq"


def test_a_payload_that_is_no_text_is_shown_as_base64() -> None:
    assert dead_letters.readable_text(b"plain") == "plain"
    assert dead_letters.readable_text(b"\xff\x00") == "base64:/wA="


async def test_the_letter_of_an_episode_is_not_replayed(bus: Bus) -> None:
    await bus.js.publish(bus.subjects.stage("episode.recorded", "x"), b"{}")
    info = await bus.js.add_consumer("EPISODES", ConsumerConfig(durable_name="p", ack_policy=AckPolicy.EXPLICIT))
    subscription = await bus.js.pull_subscribe_bind(durable="p", stream="EPISODES")
    (message,) = await subscription.fetch(1, timeout=2)
    await dead_letters.bury(bus, message, consumer=info.name, reason="test")
    (entry,) = [entry async for entry in dead_letters.read_letters(bus)]
    with pytest.raises(InvalidInput, match="kiki memory rebuild"):
        await dead_letters.replay(bus, entry.seq)
    assert (await bus.js.stream_info("EPISODES")).state.messages == 1
