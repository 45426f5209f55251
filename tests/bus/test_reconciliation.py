"""What a start changes at the broker, what it keeps, and what it refuses; on a real nats-server."""

import dataclasses
import os
import random
import re
import shlex
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    ConsumerInfo,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    StreamInfo,
)
from nats.js.errors import APIError, BadRequestError, ServerError, ServiceUnavailableError
from structlog.testing import capture_logs

from bus import topology
from bus.connection import Bus, BusSettings, connect
from bus.errors import translate_errors
from bus.handler import Consumer, Delivery, Handler
from bus.reconciliation import create_missing_consumer, create_missing_streams, reconcile_consumer, reconcile_streams
from bus.subjects import covers
from schemas.errors import SetupError
from schemas.events import Event, QueryReceived
from tests.bus.conftest import eventually, query, reply, run_consumer
from tests.fault.cluster import Cluster, make_cluster

NOTES = StreamConfig(
    name="NOTES",
    description="Notes",
    subjects=["notes.*"],
    storage=StorageType.FILE,
    retention=RetentionPolicy.LIMITS,
    discard=DiscardPolicy.OLD,
    max_age=3600.0,
    max_bytes=100_000,
    max_msgs=100,
    duplicate_window=60.0,
    num_replicas=1,
    allow_direct=True,
)
READER = topology.consumer("reader", ["notes.a", "notes.b"], ack_wait=30.0, max_ack_pending=64)


async def store(bus: Bus, *subjects: str) -> None:
    for number, subject in enumerate(subjects):
        await bus.js.publish(subject, f"{number}".encode())


async def read_some(bus: Bus, count: int, *, acknowledged: int) -> list[Any]:
    """Take ``count`` messages as the reader and acknowledge the first of them."""
    subscription = await bus.js.pull_subscribe_bind(durable="reader", stream="NOTES")
    messages: list[Any] = []
    while len(messages) < count:
        messages += await subscription.fetch(count - len(messages), timeout=5)
    for message in messages[:acknowledged]:
        await message.ack_sync()
    await subscription.unsubscribe()
    return messages


def place_of(info: ConsumerInfo) -> tuple[int, int, int, int]:
    """Delivered, acknowledged up to, in flight, pending."""
    assert info.delivered
    assert info.ack_floor
    return info.delivered.stream_seq, info.ack_floor.stream_seq, info.num_ack_pending or 0, info.num_pending or 0


async def expect_place(bus: Bus, place: tuple[int, int, int, int]) -> None:
    """The reader's place as the broker counts it, which it may do a moment after it has answered."""

    async def is_reached() -> bool:
        return place_of(await reader_info(bus)) == place

    await eventually(is_reached)


async def reader_info(bus: Bus) -> ConsumerInfo:
    return await bus.js.consumer_info("NOTES", "reader")


async def notes_info(bus: Bus) -> StreamInfo:
    return await bus.js.stream_info("NOTES")


async def prepare_reader(bus: Bus, config: ConsumerConfig = READER) -> None:
    """Ten messages of which the reader has acknowledged two and has two in flight."""
    await reconcile_streams(bus.js, [NOTES])
    await reconcile_consumer(bus.js, "NOTES", config)
    await store(bus, *["notes.a", "notes.b"] * 5)
    await read_some(bus, 4, acknowledged=2)


@pytest.mark.anyio
async def test_reconciling_twice_changes_nothing_and_logs_nothing(bus: Bus) -> None:
    before = [info.config for info in await bus.js.streams_info()]
    await prepare_reader(bus)
    reader = (await reader_info(bus)).config
    with capture_logs() as logs:
        await bus.reconcile()
        await reconcile_streams(bus.js, [NOTES])
        await reconcile_consumer(bus.js, "NOTES", READER)
    assert not logs
    after = {info.config.name: info.config for info in await bus.js.streams_info()}
    assert [after[config.name] for config in before] == before
    assert (await reader_info(bus)).config == reader


@pytest.mark.anyio
async def test_ack_wait_and_concurrency_change_in_place_and_keep_the_position(bus: Bus) -> None:
    await prepare_reader(bus)
    place = place_of(await reader_info(bus))
    assert place == (4, 2, 2, 6)
    changed = dataclasses.replace(READER, ack_wait=1.0, max_ack_pending=128)
    with capture_logs() as logs:
        await reconcile_consumer(bus.js, "NOTES", changed)
        await reconcile_consumer(bus.js, "NOTES", changed)
    assert logs == [
        {
            "event": "consumer updated",
            "log_level": "info",
            "stream": "NOTES",
            "consumer": "reader",
            "ack_wait": "30.0 -> 1.0",
            "max_ack_pending": "64 -> 128",
        }
    ]
    info = await reader_info(bus)
    assert place_of(info) == place
    assert (info.config.ack_wait, info.config.max_ack_pending) == (1.0, 128)
    await anyio.sleep(1.3)  # the new ack_wait holds for what was in flight before it
    messages = await read_some(bus, 8, acknowledged=8)
    assert sorted(message.metadata.sequence.stream for message in messages) == [3, 4, 5, 6, 7, 8, 9, 10]
    assert {message.metadata.sequence.stream for message in messages if message.metadata.num_delivered > 1} == {3, 4}
    await expect_place(bus, (10, 10, 0, 0))


@pytest.mark.anyio
async def test_messages_in_flight_can_be_acknowledged_after_the_update(bus: Bus) -> None:
    await reconcile_streams(bus.js, [NOTES])
    await reconcile_consumer(bus.js, "NOTES", READER)
    await store(bus, "notes.a", "notes.b", "notes.a")
    first, second = await read_some(bus, 2, acknowledged=0)
    await reconcile_consumer(bus.js, "NOTES", dataclasses.replace(READER, ack_wait=9.0, max_ack_pending=1))
    await first.ack_sync()
    await second.ack_sync()
    await expect_place(bus, (2, 2, 0, 1))


@pytest.mark.anyio
async def test_a_running_consumer_survives_the_update(bus: Bus) -> None:
    """A second process starts with other settings while the first one has messages in hand."""
    release, turns = anyio.Event(), []

    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        turns.append(event.envelope.turn_id)
        await release.wait()
        return reply(event)

    async def is_settled() -> bool:
        info = await bus.js.consumer_info(topology.TURNS, "echo")
        return not info.num_pending and not info.num_ack_pending

    events = [query() for _ in range(20)]
    async with run_consumer(bus, handle, concurrency=4):
        for event in events[:10]:
            await bus.publish(event)
        await eventually(lambda: _is_true(len(turns) == 4))
        later = Handler(stage="echo", event=QueryReceived, handle=handle, concurrency=32, ack_wait=9.0)
        await Consumer(bus, later).declare()
        config = (await bus.js.consumer_info(topology.TURNS, "echo")).config
        assert (config.ack_wait, config.max_ack_pending) == (9.0, 128)
        for event in events[10:]:
            await bus.publish(event)
        release.set()
        await eventually(is_settled)
    assert sorted(turns) == sorted(event.envelope.turn_id for event in events)


async def _is_true(value: bool) -> bool:
    return value


@pytest.mark.anyio
async def test_a_running_consumer_beats_by_the_ack_wait_that_is_in_force(bus: Bus) -> None:
    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        await anyio.sleep(30)
        return reply(event)

    async def count_deliveries() -> int:
        delivered = (await bus.js.consumer_info(topology.TURNS, "echo")).delivered
        return delivered.consumer_seq if delivered else 0

    handler = Handler(stage="echo", event=QueryReceived, handle=handle, concurrency=2, ack_wait=30.0)
    running = Consumer(bus, handler, fetch_seconds=0.5, check_seconds=1.5)
    await running.declare()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(running.run)
        await bus.publish(query())
        await eventually(lambda: _is_true(running.in_hand == 1))
        await Consumer(bus, dataclasses.replace(handler, ack_wait=1.0)).declare()
        await anyio.sleep(3.5)  # it has looked and beaten since
        count = await count_deliveries()
        await anyio.sleep(2.5)
        assert await count_deliveries() == count
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_the_process_that_starts_last_decides(bus: Bus) -> None:
    """A running consumer whose slots bind again does not set the settings of a later one back."""

    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        return reply(event)

    async with run_consumer(bus, handle, concurrency=2) as running:
        later = Handler(stage="echo", event=QueryReceived, handle=handle, concurrency=32, ack_wait=9.0)
        await Consumer(bus, later).declare()
        with capture_logs() as logs:
            for slot in running._slots:
                assert slot.scope
                slot.scope.cancel()
            await anyio.sleep(1.5)
            await bus.publish(query())
            await eventually(lambda: _is_settled(bus))
        config = (await bus.js.consumer_info(topology.TURNS, "echo")).config
    assert (config.ack_wait, config.max_ack_pending) == (9.0, 128)
    assert not [entry for entry in logs if entry["event"] == "consumer updated"]


async def _is_settled(bus: Bus) -> bool:
    info = await bus.js.consumer_info(topology.TURNS, "echo")
    return bool(info.ack_floor and info.ack_floor.consumer_seq) and not info.num_ack_pending


@pytest.mark.anyio
async def test_processes_that_start_together_end_with_the_settings_of_one(bus: Bus) -> None:
    streams = [dataclasses.replace(NOTES, max_msgs=100 + number) for number in range(4)]
    consumers = [dataclasses.replace(READER, ack_wait=9.0 + number) for number in range(4)]

    async def start(number: int) -> None:
        await reconcile_streams(bus.js, [streams[number]])
        await reconcile_consumer(bus.js, "NOTES", consumers[number])

    for _ in range(2):  # first all of it is missing, then it differs
        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(start, number)
        assert (await notes_info(bus)).config.max_msgs in (100, 101, 102, 103)
        assert (await reader_info(bus)).config.ack_wait in (9.0, 10.0, 11.0, 12.0)


@pytest.mark.anyio
async def test_an_existing_stream_is_left_to_the_process_that_starts_to_serve(bus: Bus) -> None:
    await prepare_reader(bus)
    await create_missing_streams(bus.js, [dataclasses.replace(NOTES, max_age=1.0)])
    assert not await create_missing_consumer(bus.js, "NOTES", dataclasses.replace(READER, ack_wait=1.0))
    assert (await notes_info(bus)).config.max_age == 3600.0
    assert (await reader_info(bus)).config.ack_wait == 30.0


@pytest.mark.anyio
async def test_a_consumers_fields_that_an_operator_added_stay(bus: Bus) -> None:
    added = dataclasses.replace(READER, description="watched", metadata={"team": "blue"}, headers_only=True)
    await prepare_reader(bus, added)
    await reconcile_consumer(bus.js, "NOTES", dataclasses.replace(READER, ack_wait=9.0))
    config = (await reader_info(bus)).config
    assert (config.ack_wait, config.description, config.headers_only) == (9.0, "watched", True)
    assert (config.metadata or {})["team"] == "blue"


# The fields of a consumer ---------------------------------------------------------------------------------------------

CONSUMER_UPDATES: dict[str, dict[str, Any]] = {
    "a longer ack_wait": {"ack_wait": 60.0},
    "a shorter ack_wait": {"ack_wait": 20.0},
    "more in flight": {"max_ack_pending": 512},
    "less in flight than there is": {"max_ack_pending": 1},
    "a description": {"description": "Reads notes"},
    "filters that nothing is stored on": {"filter_subjects": ["notes.a", "notes.b", "notes.c"]},
    "a filter that covers the former ones": {"filter_subjects": ["notes.*"]},
    "several fields": {"ack_wait": 60.0, "max_ack_pending": 8, "description": "Reads notes"},
}

CONSUMER_REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "ack_policy": (
        {"ack_policy": AckPolicy.ALL},
        r"ack_policy is 'explicit', expected 'all': .*without this one's position.*"
        r"'nats consumer rm NOTES reader -f'.*from the first of the 10 stored messages, again what was acknowledged",
    ),
    "deliver_policy": (
        {"deliver_policy": DeliverPolicy.NEW},
        r"deliver_policy is 'all', expected 'new': .*'nats consumer rm NOTES reader -f'.*by its deliver_policy 'new'",
    ),
    "filters that leave pending messages out": (
        {"filter_subjects": ["notes.a"]},
        r"filter_subjects is \['notes\.a', 'notes\.b'\], expected \['notes\.a'\]: 3 messages wait on subjects that are "
        r"left out\..*'nats consumer edit NOTES reader --filter \"notes\.a\" -f'",
    ),
    "several fields": (
        {"ack_wait": 60.0, "ack_policy": AckPolicy.ALL, "filter_subjects": ["notes.c"]},
        r"filter_subjects is .*: 6 messages wait.* ack_policy is ",
    ),
}


@pytest.mark.anyio
@pytest.mark.parametrize("changes", CONSUMER_UPDATES.values(), ids=CONSUMER_UPDATES)
async def test_a_consumer_is_updated_in_place(bus: Bus, changes: dict[str, Any]) -> None:
    await prepare_reader(bus)
    place = place_of(await reader_info(bus))
    declared = dataclasses.replace(READER, **changes)
    await reconcile_consumer(bus.js, "NOTES", declared)
    info = await reader_info(bus)
    assert place_of(info) == place
    assert {field: getattr(info.config, field) for field in changes} == changes
    with capture_logs() as logs:
        await reconcile_consumer(bus.js, "NOTES", declared)
    assert not logs


@pytest.mark.anyio
@pytest.mark.parametrize(("changes", "reason"), CONSUMER_REFUSALS.values(), ids=CONSUMER_REFUSALS)
async def test_a_consumer_that_would_lose_messages_is_left_as_it_is(
    bus: Bus, changes: dict[str, Any], reason: str
) -> None:
    await prepare_reader(bus)
    before = await reader_info(bus)
    with pytest.raises(SetupError, match=f"^consumer NOTES/reader differs .*was not changed: .*{reason}"):
        await reconcile_consumer(bus.js, "NOTES", dataclasses.replace(READER, **changes))
    after = await reader_info(bus)
    assert (after.config, place_of(after)) == (before.config, place_of(before))


@pytest.mark.anyio
async def test_a_filter_goes_when_all_on_it_is_read_though_some_is_in_flight(bus: Bus) -> None:
    await reconcile_streams(bus.js, [NOTES])
    await reconcile_consumer(bus.js, "NOTES", READER)
    await store(bus, "notes.a", "notes.b", "notes.b")
    messages = await read_some(bus, 3, acknowledged=1)
    await store(bus, "notes.a")
    await reconcile_consumer(bus.js, "NOTES", dataclasses.replace(READER, filter_subjects=["notes.a"]))
    await expect_place(bus, (3, 1, 2, 1))
    for message in messages[1:]:
        await message.nak()
    again = await read_some(bus, 3, acknowledged=3)
    assert sorted(message.metadata.sequence.stream for message in again) == [2, 3, 4]


@pytest.mark.anyio
@pytest.mark.parametrize("filters", [["notes.a", "notes.b", "notes.c"], ["notes.*"]])
async def test_messages_that_a_wider_filter_would_pass_over_are_refused(bus: Bus, filters: Sequence[str]) -> None:
    await reconcile_streams(bus.js, [NOTES])
    await store(bus, "notes.c", "notes.c")
    await prepare_reader(bus)
    await store(bus, "notes.c")
    wider = dataclasses.replace(READER, filter_subjects=list(filters))
    reason = (
        r"2 stored messages on the new subjects lie before its position 6\. Pass over them with 'nats consumer edit "
        r"NOTES reader --filter \"notes\..*-f', or read everything that is stored again after "
        r"'nats consumer rm NOTES reader -f'"
    )
    with pytest.raises(SetupError, match=reason):
        await reconcile_consumer(bus.js, "NOTES", wider)
    await bus.js.purge_stream("NOTES", seq=3)
    await reconcile_consumer(bus.js, "NOTES", wider)
    await expect_place(bus, (6, 4, 2, 7))


@pytest.mark.anyio
async def test_the_filters_of_a_queue_change_when_it_is_empty(bus: Bus) -> None:
    queue = dataclasses.replace(NOTES, retention=RetentionPolicy.WORK_QUEUE)
    await reconcile_streams(bus.js, [queue])
    await reconcile_consumer(bus.js, "NOTES", READER)
    await store(bus, "notes.a")
    wider = dataclasses.replace(READER, filter_subjects=["notes.*"])
    with pytest.raises(SetupError, match=r"1 messages of the queue wait.*'nats consumer rm NOTES reader -f'"):
        await reconcile_consumer(bus.js, "NOTES", wider)
    await read_some(bus, 1, acknowledged=1)
    await reconcile_consumer(bus.js, "NOTES", wider)
    await store(bus, "notes.c")
    assert (await reader_info(bus)).num_pending == 1


# The fields of a stream -----------------------------------------------------------------------------------------------

STREAM_UPDATES: dict[str, dict[str, Any]] = {
    "a description": {"description": "More notes"},
    "more subjects": {"subjects": ["letters.*", "notes.*"]},
    "a subject that covers the former ones": {"subjects": ["notes.>"]},
    "a subject goes that nothing is stored on": {"subjects": ["notes.a", "notes.b"]},
    "a longer life": {"max_age": 7200.0},
    "a shorter life that all of it has": {"max_age": 600.0},
    "no end of life": {"max_age": 0.0},
    "more bytes": {"max_bytes": 200_000},
    "less bytes that suffice": {"max_bytes": 50_000},
    "no end of bytes": {"max_bytes": -1},
    "more messages": {"max_msgs": 1000},
    "fewer messages that suffice": {"max_msgs": 10},
    "discard new": {"discard": DiscardPolicy.NEW},
    "fewer messages, and none is dropped": {"discard": DiscardPolicy.NEW, "max_msgs": 5},
    "a longer window": {"duplicate_window": 120.0},
    "a shorter window": {"duplicate_window": 30.0},
    "no direct reads": {"allow_direct": False},
}

STREAM_REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "storage": (
        {"storage": StorageType.MEMORY},
        r"storage is 'file', expected 'memory': .*without the 10 messages.*'nats stream rm NOTES -f'.* 1 consumers",
    ),
    "retention": (
        {"retention": RetentionPolicy.WORK_QUEUE},
        r"retention is 'limits', expected 'workqueue': .*'nats stream rm NOTES -f'",
    ),
    "interest": ({"retention": RetentionPolicy.INTEREST}, r"retention is 'limits', expected 'interest'"),
    "max_msgs": (
        {"max_msgs": 4},
        r"max_msgs is 100, expected 4: it holds 10 messages, and the oldest beyond 4 would be dropped\. "
        r"Drop them with 'nats stream edit NOTES --discard old --max-msgs 4 -f'",
    ),
    "max_bytes": (
        {"max_bytes": 100},
        r"max_bytes is 100000, expected 100: it holds \d+ bytes.*'nats stream edit NOTES --discard old --max-bytes 100",
    ),
    "subjects": (
        {"subjects": ["letters.*"]},
        r"subjects is \['notes\.\*'\], expected \['letters\.\*'\]: 10 stored messages are on subjects that are left out"
        r"\. Delete them with 'nats stream purge NOTES --subject \"notes\.\*\" -f'",
    ),
    "a part of the subjects": (
        {"subjects": ["notes.a"]},
        r"subjects is .*: 5 stored messages are on subjects that are left out\. Put the subjects back\.",
    ),
    "replicas that the broker has not": (
        {"num_replicas": 3},
        r"the broker refuses to change it \(.*replicas.*\): num_replicas is 1, expected 3\. Set the values back",
    ),
    "several fields": (
        {"max_age": 7200.0, "max_msgs": 4, "storage": StorageType.MEMORY},
        r"storage is .* max_msgs is ",
    ),
}


@pytest.mark.anyio
@pytest.mark.parametrize("changes", STREAM_UPDATES.values(), ids=STREAM_UPDATES)
async def test_a_stream_is_updated_in_place(bus: Bus, changes: dict[str, Any]) -> None:
    await prepare_reader(bus)
    before = await notes_info(bus)
    declared = dataclasses.replace(NOTES, **changes)
    with capture_logs() as logs:
        await reconcile_streams(bus.js, [declared])
        await reconcile_streams(bus.js, [declared])
    assert [(entry["event"], entry["stream"]) for entry in logs] == [("stream updated", "NOTES")]
    assert set(changes) <= set(logs[0])
    after = await notes_info(bus)
    assert after.state == before.state
    await expect_place(bus, (4, 2, 2, 6))
    assert {field: getattr(after.config, field) for field in changes} == changes


@pytest.mark.anyio
@pytest.mark.parametrize(("changes", "reason"), STREAM_REFUSALS.values(), ids=STREAM_REFUSALS)
async def test_a_stream_that_would_lose_messages_is_left_as_it_is(
    bus: Bus, changes: dict[str, Any], reason: str
) -> None:
    await prepare_reader(bus)
    before = await notes_info(bus)
    with pytest.raises(SetupError, match=f"^stream NOTES differs from its declaration and .*{reason}"):
        await reconcile_streams(bus.js, [dataclasses.replace(NOTES, **changes)])
    after = await notes_info(bus)
    assert (after.config, after.state) == (before.config, before.state)
    await expect_place(bus, (4, 2, 2, 6))


@pytest.mark.anyio
async def test_a_shorter_life_than_that_of_the_oldest_message_is_refused(bus: Bus) -> None:
    await prepare_reader(bus)
    await anyio.sleep(1.2)
    reason = (
        r"max_age is 3600\.0, expected 1\.0: of its 10 messages those older than 1s would be dropped\. "
        r"Drop them with 'nats stream edit NOTES --max-age 1s -f'"
    )
    with pytest.raises(SetupError, match=reason):
        await reconcile_streams(bus.js, [dataclasses.replace(NOTES, max_age=1.0, duplicate_window=1.0)])
    assert (await notes_info(bus)).state.messages == 10


@pytest.mark.anyio
async def test_a_full_stream_that_would_begin_to_drop_is_refused(bus: Bus) -> None:
    full = dataclasses.replace(NOTES, discard=DiscardPolicy.NEW, max_msgs=10)
    await reconcile_streams(bus.js, [full])
    await store(bus, *["notes.a"] * 10)
    await reconcile_streams(bus.js, [dataclasses.replace(full, max_msgs=5)])
    with pytest.raises(SetupError, match=r"discard is 'new', expected 'old': it holds 10 messages, and the oldest bey"):
        await reconcile_streams(bus.js, [dataclasses.replace(NOTES, max_msgs=5)])
    assert (await notes_info(bus)).state.messages == 10


@pytest.mark.anyio
async def test_a_queue_gives_no_subject_up_that_somebody_waits_on(bus: Bus) -> None:
    queue = dataclasses.replace(NOTES, retention=RetentionPolicy.WORK_QUEUE, subjects=["letters.*", "notes.*"])
    await reconcile_streams(bus.js, [queue])
    await store(bus, "letters.a", "notes.a", "notes.b")
    with pytest.raises(SetupError, match=r"2 stored messages are on subjects that are left out"):
        await reconcile_streams(bus.js, [dataclasses.replace(queue, subjects=["letters.*"])])
    await bus.js.purge_stream("NOTES", subject="notes.*")
    await reconcile_streams(bus.js, [dataclasses.replace(queue, subjects=["letters.*"])])
    assert (await notes_info(bus)).state.messages == 1


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of three servers."""
    with make_cluster(tmp_path) as servers:
        servers.start(0, 1, 2)
        yield servers


@pytest.fixture
async def cluster_bus(cluster: Cluster) -> AsyncIterator[Bus]:
    """A bus on the cluster, once that can store."""
    async with connect(BusSettings(url=cluster.url, publish_timeout=2.0), name="test") as connection:

        async def replicate() -> None:
            with translate_errors("the cluster is not whole"):
                await connection.js.add_stream(name="PROBE", subjects=["probe"], num_replicas=3)
                await connection.js.delete_stream("PROBE")

        await connection.outage.wait(replicate)
        yield connection


@pytest.mark.anyio
async def test_copies_are_added_in_place_and_none_is_dropped(cluster_bus: Bus) -> None:
    three, js = dataclasses.replace(NOTES, num_replicas=3), cluster_bus.js
    await prepare_reader(cluster_bus)

    async def widen() -> None:
        with translate_errors("the cluster is not whole"):
            await reconcile_streams(js, [three])

    await cluster_bus.outage.wait(widen)
    await reconcile_streams(js, [three])

    async def holds_all() -> bool:
        info = await notes_info(cluster_bus)
        return info.state.messages == 10 and len((info.cluster and info.cluster.replicas) or []) == 2

    await eventually(holds_all)
    with pytest.raises(
        SetupError, match=r"num_replicas is 3, expected 1: 2 of 3 copies .*Set KIKI_REPLICAS=3, or drop"
    ):
        await reconcile_streams(js, [NOTES])
    await expect_place(cluster_bus, (4, 2, 2, 6))


AWAY = {
    "no leader": ServiceUnavailableError(code=503, err_code=10008, description="JetStream system unavailable"),
    "no servers": BadRequestError(code=400, err_code=10005, description="no suitable peers for placement"),
    "another leader": ServerError(code=500, err_code=10009, description="JetStream cluster can not handle request"),
}
"""What a cluster says that loses its quorum between a reading and the update."""


@pytest.mark.anyio
@pytest.mark.parametrize("error", AWAY.values(), ids=AWAY.keys())
async def test_a_cluster_without_quorum_is_away_and_no_fault_of_the_setup(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, error: APIError
) -> None:
    await prepare_reader(bus)

    async def fail(*_: object, **__: object) -> None:
        raise error

    for verb in ("update_stream", "add_consumer"):
        monkeypatch.setattr(bus.js, verb, fail)
    with pytest.raises(type(error)):
        await reconcile_streams(bus.js, [dataclasses.replace(NOTES, description="other notes")])
    with pytest.raises(type(error)):
        await reconcile_consumer(bus.js, "NOTES", dataclasses.replace(READER, ack_wait=7.0))


# The commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.nats
@pytest.mark.skipif(shutil.which("nats") is None, reason="the nats command line is not installed")
@pytest.mark.anyio
@pytest.mark.parametrize(
    "changes", [changes for changes, reason in STREAM_REFUSALS.values() if "'nats " in reason and "rm" not in reason]
)
async def test_the_command_mends_a_stream(bus: Bus, nats_url: str, changes: dict[str, Any]) -> None:
    await prepare_reader(bus)
    declared = dataclasses.replace(NOTES, **changes)
    with pytest.raises(SetupError) as refusal:
        await reconcile_streams(bus.js, [declared])
    await run_commands(refusal.value.message, nats_url)
    await reconcile_streams(bus.js, [declared])


@pytest.mark.nats
@pytest.mark.skipif(shutil.which("nats") is None, reason="the nats command line is not installed")
@pytest.mark.anyio
async def test_the_command_makes_room_for_a_new_stream(bus: Bus, nats_url: str) -> None:
    await prepare_reader(bus)
    declared = dataclasses.replace(NOTES, storage=StorageType.MEMORY)
    with pytest.raises(SetupError) as refusal:
        await reconcile_streams(bus.js, [declared])
    await run_commands(refusal.value.message, nats_url)
    await reconcile_streams(bus.js, [declared])
    assert (await notes_info(bus)).config.storage == StorageType.MEMORY


@pytest.mark.nats
@pytest.mark.skipif(shutil.which("nats") is None, reason="the nats command line is not installed")
@pytest.mark.anyio
@pytest.mark.parametrize("changes", [changes for changes, _ in CONSUMER_REFUSALS.values()], ids=CONSUMER_REFUSALS)
async def test_the_command_mends_a_consumer(bus: Bus, nats_url: str, changes: dict[str, Any]) -> None:
    await prepare_reader(bus)
    declared = dataclasses.replace(READER, **changes)
    with pytest.raises(SetupError) as refusal:
        await reconcile_consumer(bus.js, "NOTES", declared)
    await run_commands(refusal.value.message, nats_url)
    await reconcile_consumer(bus.js, "NOTES", declared)


async def run_commands(message: str, nats_url: str) -> None:
    """Run every command that an error names, as it stands there."""
    commands = re.findall(r"'(nats [^']+ -f)'", message)
    assert commands
    for command in commands:
        await anyio.run_process(shlex.split(command), env={**os.environ, "NATS_URL": nats_url})


# All of it at once ----------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_whatever_changes_is_either_mended_without_a_loss_or_left_alone(bus: Bus) -> None:
    """Random walks through the settings: nothing stored goes, no position moves, and a second look changes nothing."""
    rng = random.Random(24)
    stream_changes = [*STREAM_UPDATES.values(), *(changes for changes, _ in STREAM_REFUSALS.values())]
    consumer_changes = [*CONSUMER_UPDATES.values(), *(changes for changes, _ in CONSUMER_REFUSALS.values())]
    await prepare_reader(bus)
    state, place = (await notes_info(bus)).state, place_of(await reader_info(bus))
    outcomes = set()
    for _ in range(60):
        for step in (_step_stream, _step_consumer):
            changes = stream_changes if step is _step_stream else consumer_changes
            picked = {field: value for change in rng.sample(changes, 2) for field, value in change.items()}
            outcomes.add((step, await step(bus, picked)))
            after = await notes_info(bus)
            assert after.state == state
            await expect_place(bus, place)
    assert len(outcomes) == 4


async def _step_stream(bus: Bus, changes: dict[str, Any]) -> bool:
    """Reconcile with these changes; whether it was not refused."""
    before, declared = (await notes_info(bus)).config, dataclasses.replace(NOTES, **changes)
    try:
        await reconcile_streams(bus.js, [declared])
    except SetupError:
        assert (await notes_info(bus)).config == before
        return False
    config = (await notes_info(bus)).config
    assert {field: getattr(config, field) for field in changes} == changes
    return True


async def _step_consumer(bus: Bus, changes: dict[str, Any]) -> bool:
    before, declared = (await reader_info(bus)).config, dataclasses.replace(READER, **changes)
    try:
        await reconcile_consumer(bus.js, "NOTES", declared)
    except SetupError:
        assert (await reader_info(bus)).config == before
        return False
    with capture_logs() as logs:
        await reconcile_consumer(bus.js, "NOTES", declared)
    assert not logs
    return True


TOKENS = st.sampled_from(["a", "b", "*"])
PATTERNS = st.builds(
    lambda tokens, rest: ".".join([*tokens, *rest]),
    st.lists(TOKENS, min_size=1, max_size=3),
    st.sampled_from([[], [">"]]),
)
SUBJECTS = [
    f"{a}{b}{c}{d}".strip(".") for a in "ab" for b in ("", ".a", ".b") for c in ("", ".a", ".b") for d in ("", ".a")
]


def _matches(pattern: str, subject: str) -> bool:
    head, tail = pattern.split("."), subject.split(".")
    if head[-1] == ">":
        return len(tail) >= len(head) and _matches(".".join(head[:-1]), ".".join(tail[: len(head) - 1]))
    return len(head) == len(tail) and all(token in ("*", other) for token, other in zip(head, tail, strict=True))


@given(wide=PATTERNS, narrow=PATTERNS)
def test_a_pattern_covers_another_when_it_matches_all_that_the_other_matches(wide: str, narrow: str) -> None:
    subjects = [f"{subject}.x" for subject in SUBJECTS] + [subject.replace("a", "x", 1) for subject in SUBJECTS]
    everything = {*SUBJECTS, *subjects}
    matched = [subject for subject in everything if _matches(narrow, subject)]
    assert matched
    assert covers(wide, narrow) == all(_matches(wide, subject) for subject in matched)
