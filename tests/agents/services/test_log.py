"""The log of marks is the truth: whatever consumers, strangers and forgetting do, a service keeps its place."""

import msgspec
import pytest
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from agents.services.agent import ServicesAgent
from agents.services.registration import METADATA
from agents.services.settings import ServicesSettings
from bus import metrics
from bus.connection import Bus
from bus.consumers import read_consumers
from bus.record import find_acknowledged_floor
from bus.stream import append, read_last
from bus.topology import EPISODES, SERVICES
from schemas.calls import SERVICES_LS, SERVICES_TRIM, SERVICES_UNREGISTER
from schemas.codec import encode
from schemas.errors import KikiError
from schemas.services import (
    EpisodeFilter,
    EpisodesConsumed,
    ServiceInfo,
    ServiceListReply,
    ServiceListRequest,
    ServiceRegistered,
    TrimReply,
    TrimRequest,
    UnregisterRequest,
)
from tests.agents.services.scenes import QUICK, fetch, forget, mark, questions_of, record, register, run_services
from tests.bus.conftest import eventually

pytestmark = pytest.mark.anyio

SLOW = ServicesSettings(watch_interval=60.0)
"""Settings with which no consumer follows the log while a test runs."""


async def list_services(bus: Bus) -> ServiceListReply:
    return await bus.request(SERVICES_LS, ServiceListRequest(), timeout=5)


async def trim(bus: Bus) -> TrimReply:
    return await bus.request(SERVICES_TRIM, TrimRequest(before=2e9), timeout=5)


async def unregister(bus: Bus, name: str = "dream") -> ServiceInfo:
    return await bus.request(SERVICES_UNREGISTER, UnregisterRequest(name=name), timeout=5)


async def list_durables(bus: Bus) -> list[str]:
    """The durable consumers of the record, sorted; readers' own come and go."""
    return sorted(consumer.name for consumer in await read_consumers(bus, EPISODES) if consumer.durable)


def marks_of(bus: Bus, name: str = "dream") -> str:
    return bus.subjects.stage(EpisodesConsumed.subject, name)


async def test_a_removed_consumer_costs_no_place_and_registering_again_brings_it_back(bus: Bus) -> None:
    async with run_services(bus):
        await register(bus)
        await record(bus, ["one", "two", "three"])
        ids = [entry.id for entry in await fetch(bus, limit=2)]
        await mark(bus, ids)
        before = (await list_services(bus)).services
        await bus.js.delete_consumer(EPISODES, "svc-dream")
        assert (await list_services(bus)).services == before
        assert await find_acknowledged_floor(bus, 3) == (2, "svc-dream")
        assert questions_of(await fetch(bus)) == ["three"]
        with pytest.raises(KikiError) as refusal:
            await register(bus, subjects=("episode.recorded",))
        assert refusal.value.code == "name_taken"
        info = await register(bus)
        assert (info.place, info.registration) == (ids[-1], before[0].registration)
        subscription = await bus.js.pull_subscribe_bind(durable="svc-dream", stream=EPISODES)
        (message,) = await subscription.fetch(1, timeout=2)
        assert message.metadata.sequence.stream == 3
        assert questions_of(await fetch(bus)) == ["three"]


@pytest.mark.parametrize("metadata", [{}, {METADATA: "{"}])
async def test_a_consumer_that_no_registration_made_is_named_wherever_it_is_in_the_way(
    bus: Bus, metadata: dict[str, str]
) -> None:
    async with run_services(bus):
        await bus.js.add_consumer(
            EPISODES, ConsumerConfig(durable_name="svc-own", ack_policy=AckPolicy.EXPLICIT, metadata=metadata)
        )
        await record(bus, ["one"])
        for criteria in (EpisodeFilter(), EpisodeFilter(tenant="ann")):
            with pytest.raises(KikiError, match=r"nats consumer rm EPISODES svc-own -f") as refusal:
                await register(bus, "own", filter=criteria)
            assert (refusal.value.code, refusal.value.param) == ("name_taken", "name")
        assert await list_services(bus) == ServiceListReply(services=(), others=("svc-own",))
        assert (await trim(bus)).held_by == "svc-own"
    async with run_services(bus):
        await bus.js.delete_consumer(EPISODES, "svc-own")
        assert (await register(bus, "own")).lag == 1


async def test_a_service_with_a_filter_has_no_consumer_that_gives_out_what_is_not_its_own(bus: Bus) -> None:
    async with run_services(bus):
        await register(bus, filter=EpisodeFilter(tenant="ann"))
        await record(bus, ["of bob"], tenant="bob")
        await record(bus, ["of ann"])
        assert questions_of(await fetch(bus)) == ["of ann"]
        assert await list_durables(bus) == []


async def test_records_that_a_filter_leaves_out_keep_neither_trim_nor_sleep_waiting(bus: Bus) -> None:
    async with run_services(bus):
        await register(bus, filter=EpisodeFilter(tenant="ann"))
        await record(bus, ["of bob"] * 3, tenant="bob")
        assert await fetch(bus) == ()

        async def is_settled() -> bool:
            return await find_acknowledged_floor(bus, 3) == (3, "")

        await eventually(is_settled)
    async with run_services(bus, SLOW):
        await record(bus, ["of bob"] * 3, tenant="bob")
        assert await fetch(bus) == ()
        assert (await trim(bus)).dropped == 6


async def test_trimming_drops_what_was_marked_just_now(bus: Bus) -> None:
    """Whatever the consumer knows of it: here it knows nothing."""
    async with run_services(bus, SLOW):
        await register(bus)
        for round_number in range(10):
            await record(bus, [f"{round_number}"])
            await mark(bus, [entry.id for entry in await fetch(bus)])
            assert await trim(bus) == TrimReply(dropped=1)


@pytest.mark.parametrize(
    "stranger",
    [
        b"{",
        b"",
        b"\xff" * 64,
        b'{"name":"dream","ids":[1],"de_id":"x","at":1.0}',
        encode(EpisodesConsumed(name="dream", registration="another", ids=(3,), de_id="x", at=1.0)),
    ],
)
async def test_a_message_in_the_log_that_is_no_mark_hides_no_place(bus: Bus, stranger: bytes) -> None:
    async with run_services(bus):
        info = await register(bus)
        await record(bus, ["one", "two", "three"])
        ids = [entry.id for entry in await fetch(bus)]
        await mark(bus, ids[:1])
        for _ in range(3):
            await append(bus, marks_of(bus), stranger)
        await append(bus, marks_of(bus), encode(_mark(info, name="another", ids=(2,))))
        await append(bus, marks_of(bus), encode(_mark(info, ids=(2, 99))))
        await append(bus, marks_of(bus), encode(_mark(info, ids=())))
        await append(bus, bus.subjects.stage(ServiceRegistered.subject, "dream"), stranger)
        await append(bus, bus.subjects.stage(ServiceRegistered.subject, "nobody"), stranger)
        assert questions_of(await fetch(bus)) == ["two", "three"]
        assert [service.place for service in (await list_services(bus)).services] == [ids[0]]
        assert (await mark(bus, ids[:1])).marked == 0
        assert (await mark(bus, ids[1:])).marked == 2
        assert await fetch(bus) == ()
        await append(bus, marks_of(bus), stranger)
        assert (await unregister(bus)).place == ids[-1]
        assert (await list_services(bus)).services == ()
        assert (await register(bus)).place == 0


def _mark(info: ServiceInfo, *, name: str = "dream", ids: tuple[int, ...]) -> EpisodesConsumed:
    return EpisodesConsumed(name=name, registration=info.registration, ids=ids, de_id="x", at=1.0)


async def test_a_place_is_found_behind_many_messages_that_are_no_marks(bus: Bus) -> None:
    async with run_services(bus):
        await register(bus)
        await record(bus, ["one", "two"])
        ids = [entry.id for entry in await fetch(bus)]
        await mark(bus, ids[:1])
        for _ in range(600):
            await bus.client.publish(marks_of(bus), b"{")
        await bus.flush()
        assert questions_of(await fetch(bus)) == ["two"]


async def test_marks_of_a_former_registration_count_for_nothing(bus: Bus) -> None:
    async with run_services(bus):
        await register(bus)
        await record(bus, ["one", "two"])
        await mark(bus, [entry.id for entry in await fetch(bus)])
        former = await unregister(bus)
        info = await register(bus)
        assert info.registration != former.registration
        assert questions_of(await fetch(bus)) == ["one", "two"]


async def test_tombstones_come_by_default_and_forgotten_records_in_hand_are_passed_over(bus: Bus) -> None:
    async with run_services(bus):
        await register(bus)
        await record(bus, ["one", "two"])
        await mark(bus, [entry.id for entry in await fetch(bus)], de_id="r")
        events = await record(bus, ["three", "four", "five", "six"], session="private")
        await record(bus, ["seven"])
        ids = [entry.id for entry in await fetch(bus)]
        assert ids == [3, 4, 5, 6, 7]
        for event in events:
            await forget(bus, event)
        for _ in range(2):
            reply = await mark(bus, ids, de_id="r")
            assert (reply.place, reply.forgotten) == (7, (3, 4, 5, 6))
        assert reply.marked == 0
        tombstones = await fetch(bus)
        assert [entry.subject for entry in tombstones] == ["episode.forgotten"] * 4
        assert (await mark(bus, [entry.id for entry in tombstones], de_id="r")).marked == 4
        assert await fetch(bus) == ()
        with pytest.raises(KikiError) as refusal:
            await mark(bus, ids, de_id="another")
        assert refusal.value.code == "already_consumed"


async def test_a_batch_that_was_forgotten_as_a_whole_holds_nobody_up(bus: Bus) -> None:
    async with run_services(bus):
        await register(bus, subjects=("episode.recorded",))
        events = await record(bus, ["one", "two"])
        ids = [entry.id for entry in await fetch(bus)]
        for event in events:
            await forget(bus, event)
        reply = await mark(bus, ids)
        assert (reply.marked, reply.forgotten) == (0, tuple(ids))
        assert await fetch(bus) == ()
        await record(bus, ["three"])
        assert (await mark(bus, [entry.id for entry in await fetch(bus)])).marked == 1


async def test_a_retry_after_its_records_were_trimmed_changes_nothing(bus: Bus) -> None:
    async with run_services(bus):
        await register(bus)
        await record(bus, ["one", "two"])
        ids = [entry.id for entry in await fetch(bus)]
        await mark(bus, ids)
        assert (await trim(bus)).dropped == 2
        assert (await mark(bus, ids)).marked == 0
        with pytest.raises(KikiError) as refusal:
            await mark(bus, ids, de_id="another")
        assert refusal.value.code == "already_consumed"


async def test_a_registration_outlives_the_oldest_part_of_its_log(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other services' marks fill the log, and the broker drops its oldest messages."""
    monkeypatch.setattr("agents.services.agent.SMALL_MAX_BYTES", 4096)
    async with run_services(bus):
        await register(bus)
        await record(bus, ["one", "two"])
        await mark(bus, [entry.id for entry in await fetch(bus, limit=1)])
        for number in range(40):
            await append(bus, marks_of(bus, f"other-{number}"), b"x" * 100)

        async def find_renewed() -> int:
            message = await read_last(bus, SERVICES, bus.subjects.stage(ServiceRegistered.subject, "dream"))
            return message.seq if message and message.seq > 20 else 0

        await bus.js.purge_stream(SERVICES, seq=await eventually(find_renewed))
        (info,) = (await list_services(bus)).services
        assert (info.place, info.delivered, info.lag) == (1, 1, 1)
        assert questions_of(await fetch(bus)) == ["two"]


async def make_old_consumer(bus: Bus, name: str, criteria: EpisodeFilter, *, new_only: bool = False) -> str:
    """The durable consumer by which an earlier version knew a registration; returns the registration's id."""
    registration = {
        "id": "0123456789abcdef",
        "name": name,
        "subjects": ["episode.recorded"],
        "filter": msgspec.to_builtins(criteria),
        "ack_wait": 30.0,
        "registered_at": 1.0,
    }
    await bus.js.add_consumer(
        EPISODES,
        ConsumerConfig(
            durable_name=f"svc-{name}",
            filter_subjects=[bus.subjects.stage("episode.recorded")],
            ack_policy=AckPolicy.EXPLICIT,
            deliver_policy=DeliverPolicy.NEW if new_only else DeliverPolicy.ALL,
            metadata={METADATA: msgspec.json.encode(registration).decode()},
        ),
    )
    return str(registration["id"])


async def test_registrations_of_an_earlier_version_are_adopted_with_their_places(bus: Bus) -> None:
    await record(bus, ["one", "two", "three", "four"])
    whole = await make_old_consumer(bus, "whole", EpisodeFilter())
    await make_old_consumer(bus, "narrow", EpisodeFilter(tenant="ann"))
    await make_old_consumer(bus, "late", EpisodeFilter(), new_only=True)
    subscription = await bus.js.pull_subscribe_bind(durable="svc-whole", stream=EPISODES)
    await subscription.fetch(3, timeout=2)
    entry = EpisodesConsumed(name="whole", registration=whole, ids=(1, 2), de_id="de-1", at=1.0)
    await append(bus, marks_of(bus, "whole"), encode(entry))
    for _ in range(2):
        async with run_services(bus):
            services = {info.name: info for info in (await list_services(bus)).services}
            assert {name: (info.place, info.delivered, info.lag) for name, info in services.items()} == {
                "whole": (2, 3, 2),
                "narrow": (0, 0, 4),
                "late": (4, 4, 0),
            }
            assert services["whole"].registration == whole
            assert await list_durables(bus) == ["svc-late", "svc-whole"]
    async with run_services(bus):
        assert (await mark(bus, [1, 2], name="whole", de_id="de-1")).marked == 0
        assert (await mark(bus, [3], name="whole")).marked == 1
        assert questions_of(await fetch(bus, "whole")) == ["four"]


async def test_a_consumer_that_outlived_its_registration_goes_with_the_next_start(bus: Bus) -> None:
    async with run_services(bus):
        await register(bus)
        config = (await bus.js.consumer_info(EPISODES, "svc-dream")).config
        await unregister(bus)
        await bus.js.add_consumer(EPISODES, config)
    async with run_services(bus):
        assert await list_services(bus) == ServiceListReply(services=())
        assert await list_durables(bus) == []


async def test_a_fault_while_the_lags_are_watched_does_not_end_the_agent(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    degraded = metrics.DEGRADED.labels("services.gauges")
    before = degraded._value.get()

    async def fail(*_: object) -> float:
        raise RuntimeError("broken")

    monkeypatch.setattr("agents.services.cursor.Cursors.read_age", fail)
    async with run_services(bus, QUICK) as agent:
        assert isinstance(agent, ServicesAgent)
        await register(bus)

        async def is_counted() -> bool:
            return bool(degraded._value.get() > before)

        await eventually(is_counted)
        await record(bus, ["one"])
        assert questions_of(await fetch(bus)) == ["one"]
