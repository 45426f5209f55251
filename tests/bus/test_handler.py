"""The handler contract against a real nats-server."""

import asyncio
import contextlib
import time
from typing import Any

import anyio
import pytest

from bus import dead_letters, metrics
from bus.connection import Bus, BusSettings, connect
from bus.handler import FETCH_SECONDS, Consumer, Delivery, Handler
from bus.topology import ANSWERS, DEAD, TURNS
from schemas.codec import encode
from schemas.errors import KikiError, StageFailed, Unavailable
from schemas.events import Event, QueryReceived, TurnCancelled, TurnFailed
from schemas.findings import StageTiming
from tests.bus.conftest import declare_consumer, eventually, query, reply, run_beside, run_consumer

pytestmark = pytest.mark.anyio


async def find_last(bus: Bus, kind: type[Any], event: Event) -> Any:
    return await bus.last(kind, event.envelope.turn_id)


async def count_unsettled(bus: Bus) -> int:
    info = await bus.js.consumer_info(TURNS, "echo")
    return int(info.num_ack_pending or 0) + int(info.num_pending or 0)


async def test_the_result_is_published_and_the_message_acknowledged(bus: Bus) -> None:
    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        assert delivery.attempt == 1
        return reply(event)

    event = query()
    async with run_consumer(bus, handle):
        assert await bus.publish(event)
        result = await eventually(lambda: find_last(bus, TurnCancelled, event))
        assert result.envelope.causation_id == event.envelope.event_id
        assert result.envelope.sequence == 1
        await eventually(lambda: _equals(count_unsettled(bus), 0))


async def test_a_delivery_says_how_long_its_stage_took(bus: Bus) -> None:
    timings: list[StageTiming] = []

    async def handle(event: QueryReceived, delivery: Delivery) -> Event | None:
        await anyio.sleep(0.05)
        timings.append(delivery.timing("echo", compute=0.04, ahead=0.01))
        if delivery.attempt < 2:
            raise Unavailable("try again")
        return reply(event)

    sent_at = time.time()
    async with run_consumer(bus, handle):
        event = query()
        await bus.publish(event)
        await eventually(lambda: find_last(bus, TurnCancelled, event))
    assert [timing.attempt for timing in timings] == [1, 2]
    for timing in timings:
        assert (timing.stage, timing.compute, timing.ahead) == ("echo", 0.04, 0.01)
        assert timing.duration >= 0.05
        assert sent_at <= timing.started_at < timing.finished_at <= time.time()


async def _equals(value: Any, expected: Any) -> bool:
    return bool(await value == expected)


async def test_the_same_result_twice_is_stored_once(bus: Bus) -> None:
    event = reply(query())
    assert await bus.publish(event)
    assert not await bus.publish(event)
    assert (await bus.js.stream_info(ANSWERS)).state.messages == 1


async def test_a_malformed_event_is_buried_and_stops_no_other_event(bus: Bus) -> None:
    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        return reply(event)

    event = query()
    async with run_consumer(bus, handle):
        await bus.js.publish(bus.subjects.stage("query.received", "broken"), b'{"envelope": 1}')
        await bus.js.publish(bus.subjects.stage("query.received", "binary"), b"\xff\x00")
        await bus.publish(event)
        await eventually(lambda: find_last(bus, TurnCancelled, event))

        async def list_letters() -> list[dead_letters.FiledLetter]:
            entries = [entry async for entry in dead_letters.read_letters(bus)]
            return entries if len(entries) == 2 else []

        letters = await eventually(list_letters)
        assert letters[0].letter.payload == b'{"envelope": 1}'
        assert "envelope" in letters[0].letter.reason
        assert letters[1].letter.subject.endswith(".binary")


@pytest.mark.parametrize("status", ["503", "408", "404", "100"])
async def test_a_publisher_cannot_speak_as_the_broker(bus: Bus, status: str) -> None:
    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        return reply(event)

    event = query()
    async with run_consumer(bus, handle):
        await bus.js.publish(bus.subjects.of(event), encode(event), headers={"Status": status})
        await eventually(lambda: find_last(bus, TurnCancelled, event))
        await eventually(lambda: _equals(count_unsettled(bus), 0))


async def test_an_event_on_another_turns_subject_is_malformed(bus: Bus) -> None:
    async def handle(event: QueryReceived, delivery: Delivery) -> None:
        pytest.fail("must not be handled")

    async with run_consumer(bus, handle):
        await bus.js.publish(bus.subjects.stage("query.received", "other"), encode(query()))
        await eventually(lambda: _equals(_count_messages(bus, DEAD), 1))


async def _count_messages(bus: Bus, stream: str) -> int:
    return int((await bus.js.stream_info(stream)).state.messages)


async def test_a_transient_error_is_tried_again(bus: Bus) -> None:
    attempts: list[int] = []

    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        attempts.append(delivery.attempt)
        if delivery.attempt < 3:
            raise Unavailable("not yet")
        return reply(event)

    event = query()
    async with run_consumer(bus, handle, retry_delay=0.02):
        await bus.publish(event)
        await eventually(lambda: find_last(bus, TurnCancelled, event))
    assert attempts == [1, 2, 3]


async def test_the_last_failed_delivery_ends_in_a_dead_letter_and_a_failed_turn(bus: Bus) -> None:
    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        raise RuntimeError("a bug")

    event = query()
    async with run_consumer(bus, handle, retry_delay=0.02, max_deliver=2):
        await bus.publish(event)
        failure = await eventually(lambda: find_last(bus, TurnFailed, event))
        assert (failure.stage, failure.code) == ("echo", "internal_error")
        assert "a bug" not in failure.message
        letters = [entry.letter async for entry in dead_letters.read_letters(bus)]
        assert [(letter.deliveries, letter.reason.split(":")[0]) for letter in letters] == [(2, "max_deliver")]
        await eventually(lambda: _equals(count_unsettled(bus), 0))


async def test_a_turn_whose_processes_died_each_time_may_be_asked_again(bus: Bus) -> None:
    """Nobody is there to say whether the message killed them or they were killed."""

    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        raise AssertionError("a third time")

    event = query()
    consumer = await declare_consumer(bus, handle, max_deliver=2)
    await bus.publish(event)
    unlucky = await bus.js.pull_subscribe_bind("echo", TURNS)
    for _ in range(2):
        await (await unlucky.fetch(1))[0].nak()
    async with run_beside(consumer):
        failure = await eventually(lambda: find_last(bus, TurnFailed, event))
    assert (failure.stage, failure.code, failure.retryable) == ("echo", "unavailable", True)
    letters = [entry.letter async for entry in dead_letters.read_letters(bus)]
    assert [(letter.deliveries, letter.reason.split(":")[0]) for letter in letters] == [(3, "max_deliver")]


async def test_a_refusal_fails_the_turn_without_a_dead_letter(bus: Bus) -> None:
    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        raise StageFailed("cannot", code="adapter_failed")

    event = query()
    async with run_consumer(bus, handle):
        await bus.publish(event)
        failure = await eventually(lambda: find_last(bus, TurnFailed, event))
        assert (failure.code, failure.message, failure.retryable) == ("adapter_failed", "cannot", False)
    assert await _count_messages(bus, DEAD) == 0


async def test_a_handler_that_cancels_itself_ends_no_subscription(bus: Bus) -> None:
    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        if event.query.text == "cancel yourself" and delivery.attempt == 1:
            raise asyncio.CancelledError
        return reply(event)

    first, second = query(text="cancel yourself"), query()
    async with run_consumer(bus, handle, concurrency=1, retry_delay=0.02):
        await bus.publish(first)
        await bus.publish(second)
        await eventually(lambda: find_last(bus, TurnCancelled, second))
        await eventually(lambda: find_last(bus, TurnCancelled, first))


async def test_cancelling_the_turn_cancels_its_handler(bus: Bus) -> None:
    began, ended = anyio.Event(), anyio.Event()

    async def handle(event: QueryReceived, delivery: Delivery) -> None:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    event = query()
    async with run_consumer(bus, handle):
        await bus.publish(event)
        with anyio.fail_after(5):
            await began.wait()
        await bus.publish(TurnCancelled(envelope=event.envelope.next("client"), reason="gone"))
        with anyio.fail_after(5):
            await ended.wait()
        await eventually(lambda: _equals(count_unsettled(bus), 0))
        assert await find_last(bus, TurnFailed, event) is None


async def test_a_process_born_after_the_cancellation_honours_it(bus: Bus, nats_url: str) -> None:
    event, attempts = query(), []

    async def hang(event: QueryReceived, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        await anyio.sleep_forever()

    async with run_consumer(bus, hang, ack_wait=0.5):
        await bus.publish(event)
        await eventually(lambda: _equals(_length(attempts), 1))
    await bus.publish(TurnCancelled(envelope=event.envelope.next("client"), reason="gone"))
    async with connect(BusSettings(url=nats_url), name="reborn") as reborn, run_consumer(reborn, hang, ack_wait=0.5):
        await eventually(lambda: _equals(count_unsettled(bus), 0))
    assert attempts == [1]


async def _length(items: list[Any]) -> int:
    return len(items)


async def test_a_turn_past_its_deadline_fails_unhandled(bus: Bus) -> None:
    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        pytest.fail("must not be handled")

    event = query(timeout=-1.0)
    async with run_consumer(bus, handle):
        await bus.publish(event)
        failure = await eventually(lambda: find_last(bus, TurnFailed, event))
        assert failure.code == "deadline_exceeded"


async def test_the_deadline_ends_a_handler(bus: Bus) -> None:
    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        await anyio.sleep_forever()
        raise AssertionError

    event = query(timeout=0.6)
    async with run_consumer(bus, handle):
        await bus.publish(event)
        failure = await eventually(lambda: find_last(bus, TurnFailed, event))
        assert (failure.code, failure.retryable) == ("deadline_exceeded", True)


async def test_long_work_is_reported_to_the_broker_and_not_delivered_twice(bus: Bus) -> None:
    attempts: list[int] = []

    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        attempts.append(delivery.attempt)
        await anyio.sleep(3.0)
        return reply(event)

    event = query()
    async with run_consumer(bus, handle, ack_wait=1.2):
        await bus.publish(event)
        await eventually(lambda: find_last(bus, TurnCancelled, event))
    assert attempts == [1]


async def test_a_message_of_a_dead_process_is_delivered_again(bus: Bus, nats_url: str) -> None:
    event, attempts = query(), []

    async def hang(event: QueryReceived, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        await anyio.sleep_forever()

    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        attempts.append(delivery.attempt)
        return reply(event)

    async with (
        connect(BusSettings(url=nats_url), name="dies") as dying_bus,
        run_consumer(dying_bus, hang, ack_wait=0.5),
    ):
        await bus.publish(event)
        await eventually(lambda: _equals(_length(attempts), 1))
    async with run_consumer(bus, handle, ack_wait=0.5):
        await eventually(lambda: find_last(bus, TurnCancelled, event))
    assert attempts == [1, 2]


async def test_messages_in_hand_are_no_more_than_the_slots(bus: Bus) -> None:
    now, most = 0, 0

    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await anyio.sleep(0.05)
        now -= 1
        return reply(event)

    events = [query() for _ in range(12)]
    async with run_consumer(bus, handle, concurrency=3):
        for event in events:
            await bus.publish(event)
        for event in events:
            await eventually(lambda event=event: find_last(bus, TurnCancelled, event))  # type: ignore[misc]
    assert most == 3


async def test_the_watchdog_brings_back_a_slot_that_stopped(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        return reply(event)

    before = metrics.RESTARTED.labels("echo")._value.get()
    event = query()
    async with run_consumer(bus, handle, concurrency=1) as consumer:
        scope = await eventually(lambda: _scope(consumer))
        original, calls = consumer._bind, []

        async def hang_once() -> Any:
            calls.append(1)
            if len(calls) == 1:
                await anyio.sleep_forever()
            return await original()

        monkeypatch.setattr(consumer, "_bind", hang_once)
        scope.cancel()  # the pull loop ends; the next one hangs before it pulls
        await eventually(lambda: _equals(_length(calls), 2))
        await bus.publish(event)
        await eventually(lambda: find_last(bus, TurnCancelled, event))
    assert metrics.RESTARTED.labels("echo")._value.get() >= before + 2


async def test_a_consumer_that_is_deleted_and_declared_again_goes_on_at_once(bus: Bus) -> None:
    attempts: list[str] = []

    async def handle(event: QueryReceived, delivery: Delivery) -> None:
        attempts.append(event.envelope.turn_id)

    events = [query(), query()]
    consumer = Consumer(bus, Handler(stage="echo", event=QueryReceived, handle=handle, concurrency=3))
    await consumer.declare()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.run)
        await bus.publish(events[0])
        await eventually(lambda: _equals(count_waiting(bus), 3))
        await bus.js.delete_consumer(TURNS, "echo")
        await consumer.declare()
        await bus.publish(events[1])
        began = anyio.current_time()
        await eventually(lambda: _equals(count_waiting(bus), 3))
        assert anyio.current_time() - began < FETCH_SECONDS / 2
        tasks.cancel_scope.cancel()
    first, second = (event.envelope.turn_id for event in events)
    assert sorted(attempts) == sorted([first, first, second])  # the new consumer begins at the first message


async def count_waiting(bus: Bus) -> int:
    """Pull requests that wait at the broker, once there is nothing that they could have."""
    info = await bus.js.consumer_info(TURNS, "echo")
    return 0 if info.num_pending or info.num_ack_pending else int(info.num_waiting or 0)


async def _scope(consumer: Consumer[QueryReceived]) -> anyio.CancelScope | None:
    return consumer._slots[0].scope


async def test_give_up_replaces_turn_failed(bus: Bus) -> None:
    messages: list[str] = []

    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        raise StageFailed("no")

    async def give_up(event: QueryReceived, error: KikiError) -> None:
        messages.append(error.message)

    event = query()
    async with run_consumer(bus, handle, give_up=give_up):
        await bus.publish(event)
        await eventually(lambda: _equals(_length(messages), 1))
        await eventually(lambda: _equals(count_unsettled(bus), 0))
    assert await find_last(bus, TurnFailed, event) is None


async def test_a_core_callback_that_fails_ends_nothing(bus: Bus) -> None:
    payloads: list[bytes] = []

    async def handle(message: Any) -> None:
        payloads.append(message.data)
        if message.data == b"cancel":
            raise asyncio.CancelledError
        if message.data == b"fail":
            raise RuntimeError

    stop_listening = await bus.listen("kiki.test.firewall.x", handle)
    for data in (b"cancel", b"fail", b"ok"):
        await bus.client.publish("kiki.test.firewall.x", data)
    await eventually(lambda: _equals(_length(payloads), 3))
    with contextlib.suppress(Exception):
        await stop_listening()
