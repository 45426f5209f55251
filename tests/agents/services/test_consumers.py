"""Services that own their place in the record, on a real broker."""

from typing import Any

import anyio
import pytest

from agents.services import cursor
from bus import metrics
from bus.connection import Bus, BusSettings, connect
from bus.stream import append, read_stream
from bus.topology import EPISODES, SERVICES
from schemas.calls import SERVICES_LS, SERVICES_REGISTER, SERVICES_TRIM, SERVICES_UNREGISTER
from schemas.codec import decode
from schemas.errors import KikiError
from schemas.services import (
    EpisodeFilter,
    EpisodesConsumed,
    RegisterRequest,
    ServiceInfo,
    ServiceListRequest,
    TrimReply,
    TrimRequest,
    UnregisterRequest,
)
from tests.agents.services.scenes import fetch, forget, mark, questions_of, record, register, run_services
from tests.bus.conftest import eventually

pytestmark = pytest.mark.anyio


async def expect_refusal(code: str, param: str, verb: str, call: Any) -> None:
    """The call is refused with that code and field, counted, and without effect on the log."""
    counter = metrics.REFUSED.labels(verb, code)
    before = counter._value.get()
    with pytest.raises(KikiError) as refusal:
        await call
    assert (refusal.value.code, refusal.value.param) == (code, param)
    assert refusal.value.retryable == (code == "in_hand")
    assert counter._value.get() == before + 1


class LooseRegistration(RegisterRequest, frozen=True, kw_only=True):
    """What a client of another language may send."""

    name: str


async def register_unchecked(bus: Bus, name: str) -> ServiceInfo:
    """Register over the broker, without the checks of our own client."""
    return await bus.request(SERVICES_REGISTER, LooseRegistration(name=name), timeout=5)


async def read_log(bus: Bus, name: str = "*") -> list[EpisodesConsumed]:
    """The marks in the log."""
    subject = bus.subjects.stage(EpisodesConsumed.subject, name)
    return [decode(EpisodesConsumed, message.data) async for message in read_stream(bus, SERVICES, [subject])]


async def trim(bus: Bus) -> TrimReply:
    return await bus.request(SERVICES_TRIM, TrimRequest(before=2e9), timeout=5)


async def list_services(bus: Bus) -> tuple[ServiceInfo, ...]:
    return (await bus.request(SERVICES_LS, ServiceListRequest(), timeout=5)).services


async def test_records_come_in_order_again_until_they_are_marked(bus: Bus) -> None:
    async with run_services(bus):
        info = await register(bus)
        assert (info.place, info.lag, info.subjects) == (0, 0, ("episode.recorded", "episode.forgotten"))
        await record(bus, ["one", "two", "three", "four"])
        first = await fetch(bus, limit=2)
        assert questions_of(first) == ["one", "two"]
        assert questions_of(await fetch(bus, limit=3)) == ["one", "two", "three"]
        reply = await mark(bus, [one.id for one in first])
        assert (reply.marked, reply.place) == (2, first[-1].id)
        rest = await fetch(bus)
        assert questions_of(rest) == ["three", "four"]
        await mark(bus, [one.id for one in rest], de_id="de-2")
        assert await fetch(bus) == ()
        (info,) = await list_services(bus)
        assert (info.lag, info.place) == (0, rest[-1].id)
        assert [(entry.de_id, len(entry.ids)) for entry in await read_log(bus)] == [("de-1", 2), ("de-2", 2)]


async def test_a_registration_can_begin_with_new_records(bus: Bus) -> None:
    async with run_services(bus):
        await record(bus, ["old"])
        await register(bus, begin="new")
        await record(bus, ["new"])
        assert questions_of(await fetch(bus)) == ["new"]


async def test_a_fetch_waits_for_a_first_record(bus: Bus) -> None:
    async with run_services(bus):
        await register(bus)
        questions: list[str] = []

        async def fetch_and_wait() -> None:
            questions.extend(questions_of(await fetch(bus, wait=8.0)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fetch_and_wait)
            await anyio.sleep(0.2)
            await record(bus, ["at last"])
        assert questions == ["at last"]


async def test_a_filter_is_kept_and_the_records_that_it_leaves_out_hold_nobody_up(bus: Bus) -> None:
    async with run_services(bus):
        await register(bus, filter=EpisodeFilter(tenant="ann", user="mia", min_saillance=0.4))
        await record(bus, ["dull"], user="mia", salience=0.1)
        await record(bus, ["strange"], tenant="bob", user="mia")
        await record(bus, ["of tom"], user="tom")
        await record(bus, ["mine"], user="mia")
        await record(bus, ["dull again"], salience=0.1)
        (entry,) = await fetch(bus)
        assert questions_of([entry]) == ["mine"]
        await mark(bus, [entry.id])
        assert await fetch(bus) == ()
        (info,) = await list_services(bus)
        assert info.lag == 0


async def test_bad_requests_are_refused_by_name_counted_and_change_nothing(bus: Bus) -> None:
    async with run_services(bus):
        await register(bus)
        await record(bus, ["one", "two", "three", "four"])
        await expect_refusal("name_taken", "name", "services.register", register(bus))
        await expect_refusal(
            "matches_nothing", "subjects[0]", "services.register", register(bus, "x", subjects=("query.*",))
        )
        await expect_refusal("invalid_event", "name", "services.register", register_unchecked(bus, "no.dots"))
        with pytest.raises(KikiError, match="name") as refusal:
            await register(bus, "no.dots")
        assert refusal.value.code == "invalid_event"
        await expect_refusal("service_not_found", "name", "services.fetch", fetch(bus, "nobody"))
        await expect_refusal("service_not_found", "name", "services.mark", mark(bus, [1], name="nobody"))
        ids = [entry.id for entry in await fetch(bus, limit=3)]
        await expect_refusal("not_delivered", "ids", "services.mark", mark(bus, [*ids, ids[-1] + 1]))
        await expect_refusal("not_delivered", "ids", "services.mark", mark(bus, [10_000]))
        await expect_refusal("out_of_order", "ids", "services.mark", mark(bus, [ids[1], ids[0]]))
        await expect_refusal("out_of_order", "ids", "services.mark", mark(bus, [ids[0], ids[2]]))
        await expect_refusal("out_of_order", "ids", "services.mark", mark(bus, [ids[1]]))
        assert await read_log(bus) == []
        await mark(bus, ids[:1])
        await expect_refusal("already_consumed", "ids", "services.mark", mark(bus, ids[:1], de_id="another"))
        assert len(await read_log(bus)) == 1
        assert questions_of(await fetch(bus)) == ["two", "three", "four"]


async def test_a_record_of_another_service_cannot_be_marked(bus: Bus) -> None:
    async with run_services(bus):
        await register(bus, filter=EpisodeFilter(tenant="ann"))
        for tenant in ("ann", "bob", "ann"):
            await record(bus, [f"of {tenant}"], tenant=tenant)
        first, second = [entry.id for entry in await fetch(bus)]
        await expect_refusal("not_delivered", "ids", "services.mark", mark(bus, [first, first + 1, second]))
        assert (await mark(bus, [first, second])).marked == 2


async def test_marking_again_changes_nothing(bus: Bus) -> None:
    async with run_services(bus):
        await register(bus)
        await record(bus, ["one"])
        (entry,) = await fetch(bus)
        assert (await mark(bus, [entry.id])).marked == 1
        assert (await mark(bus, [entry.id])).marked == 0
        assert len(await read_log(bus)) == 1


async def test_another_holder_waits_its_turn_and_the_same_one_goes_on(bus: Bus) -> None:
    async with run_services(bus):
        await register(bus, ack_wait=60.0)
        await record(bus, ["one"])
        (entry,) = await fetch(bus, holder="first")
        await expect_refusal("in_hand", "holder", "services.fetch", fetch(bus, holder="second"))
        assert questions_of(await fetch(bus, holder="first")) == ["one"]
        await mark(bus, [entry.id])
        await record(bus, ["two"])
        assert questions_of(await fetch(bus, holder="second")) == ["two"]


async def test_a_new_agent_knows_every_place(bus: Bus) -> None:
    async with run_services(bus):
        await register(bus)
        await record(bus, ["one", "two"])
        records = await fetch(bus)
    async with run_services(bus):
        assert questions_of(await fetch(bus)) == ["one", "two"]
        await mark(bus, [entry.id for entry in records])
        assert await fetch(bus) == ()


async def test_a_mark_whose_writer_died_before_its_reply_stands(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    async with run_services(bus):
        await register(bus)
        await record(bus, ["one", "two", "three"])
        ids = [one.id for one in await fetch(bus, limit=2)]

        async def write_and_die(*arguments: Any, **options: Any) -> None:
            await append(*arguments, **options)
            raise RuntimeError("killed")

        with monkeypatch.context() as patch:
            patch.setattr(cursor, "append", write_and_die)
            with pytest.raises(KikiError):
                await mark(bus, ids)
        assert (await mark(bus, ids)).marked == 0
        assert questions_of(await fetch(bus)) == ["three"]
        assert [entry.ids for entry in await read_log(bus)] == [tuple(ids)]


async def test_a_consumer_that_the_broker_set_back_is_brought_up_to_its_log(bus: Bus) -> None:
    """After a crash of the operating system the record and the log are on disk, a consumer's state may be older."""

    async def is_brought_up() -> bool:
        info = await bus.js.consumer_info(EPISODES, "svc-dream")
        return bool(info.ack_floor and info.ack_floor.stream_seq == ids[-1])

    async with run_services(bus):
        await register(bus)
        await record(bus, ["one", "two", "three"])
        ids = [entry.id for entry in await fetch(bus, limit=2)]
        await mark(bus, ids)
        durable = (await bus.js.consumer_info(EPISODES, "svc-dream")).config
        await bus.js.delete_consumer(EPISODES, "svc-dream")
        await bus.js.add_consumer(EPISODES, durable)
        assert questions_of(await fetch(bus)) == ["three"]
        await eventually(is_brought_up)
        subscription = await bus.js.pull_subscribe_bind(durable="svc-dream", stream=EPISODES)
        (message,) = await subscription.fetch(1, timeout=2)
        assert message.metadata.sequence.stream == ids[-1] + 1


async def test_a_forgotten_record_leaves_no_gap_and_its_tombstone_comes(bus: Bus) -> None:
    async with run_services(bus):
        await register(bus, subjects=("episode.*",))
        events = await record(bus, ["one", "two", "three"])
        ids = [entry.id for entry in await fetch(bus)]
        await forget(bus, events[1])
        assert (await mark(bus, ids)).place == ids[-1]
        (tombstone,) = await fetch(bus)
        assert (tombstone.subject, tombstone.episode, tombstone.episode_id) == (
            "episode.forgotten",
            None,
            events[1].episode.episode_id,
        )


async def test_an_unreadable_record_blocks_nobody(bus: Bus) -> None:
    async with run_services(bus):
        await register(bus)
        await bus.js.publish(bus.subjects.stage("episode.recorded", "broken"), b"{")
        await record(bus, ["after it"])
        records = await fetch(bus)
        assert questions_of(records) == ["after it"]
        await mark(bus, [entry.id for entry in records])
        (info,) = await list_services(bus)
        assert info.lag == 0


async def test_a_slow_service_blocks_nobody_and_its_lag_is_shown(bus: Bus) -> None:
    async with run_services(bus):
        await register(bus, "slow")
        await register(bus, "quick")
        await record(bus, ["one", "two", "three"])
        assert len(await fetch(bus, "slow")) == 3
        records = await fetch(bus, "quick")
        await mark(bus, [entry.id for entry in records], name="quick")
        assert {info.name: info.lag for info in await list_services(bus)} == {"slow": 3, "quick": 0}

        async def is_lag_shown() -> bool:
            sample_value = metrics.REGISTRY.get_sample_value
            return sample_value("kiki_service_lag", {"service": "slow"}) == 3 and bool(
                sample_value("kiki_service_oldest_seconds", {"service": "slow"})
            )

        await eventually(is_lag_shown)


async def test_a_reply_is_bounded_in_bytes(bus: Bus) -> None:
    from agents.services.settings import ServicesSettings

    async with run_services(bus, ServicesSettings(reply_bytes=3000)):
        await register(bus)
        await record(bus, ["x" * 1500] * 5)
        seen = []
        while records := await fetch(bus):
            assert len(records) < 5
            seen += [entry.id for entry in records]
            await mark(bus, [entry.id for entry in records])
        assert len(seen) == len(set(seen)) == 5


async def test_a_name_registered_again_begins_at_the_first_record(bus: Bus) -> None:
    async with run_services(bus):
        await register(bus)
        await record(bus, ["one"])
        (entry,) = await fetch(bus)
        await mark(bus, [entry.id])
        info = await bus.request(SERVICES_UNREGISTER, UnregisterRequest(name="dream"), timeout=5)
        assert info.place == entry.id
        assert await list_services(bus) == ()
        await expect_refusal("service_not_found", "name", "services.fetch", fetch(bus))
        await register(bus)
        assert questions_of(await fetch(bus)) == ["one"]
        await mark(bus, [entry.id], de_id="de-2")


async def test_the_record_is_trimmed_to_what_everybody_consumed(bus: Bus) -> None:
    async with run_services(bus):
        await register(bus, "slow")
        await register(bus, "quick")
        await record(bus, ["one", "two", "three"])
        for name, count in (("quick", 3), ("slow", 1)):
            records = await fetch(bus, name, limit=count)
            await mark(bus, [entry.id for entry in records], name=name)
        assert await trim(bus) == TrimReply(dropped=1, held_by="svc-slow")
        assert questions_of(await fetch(bus, "slow")) == ["two", "three"]
        assert await trim(bus) == TrimReply(dropped=0, held_by="svc-slow")
        await bus.request(SERVICES_UNREGISTER, UnregisterRequest(name="slow"), timeout=5)
        assert await trim(bus) == TrimReply(dropped=2)
        assert (await bus.js.stream_info(EPISODES)).state.messages == 0


async def test_an_acknowledgement_of_a_stock_client_moves_no_place(bus: Bus, nats_url: str) -> None:
    """``nats consumer next`` acknowledges by default: the log does not have the record as consumed, so it comes."""
    async with run_services(bus), connect(BusSettings(url=nats_url), name="stranger") as stranger:
        await register(bus)
        await record(bus, ["one", "two"])
        subscription = await stranger.js.pull_subscribe_bind(durable="svc-dream", stream=EPISODES)
        (message,) = await subscription.fetch(1, timeout=2)
        await message.ack_sync()
        assert await trim(bus) == TrimReply(dropped=0, held_by="svc-dream")
        records = await fetch(bus)
        assert questions_of(records) == ["one", "two"]
        assert (await mark(bus, [entry.id for entry in records])).marked == 2


async def test_a_start_brings_a_registration_to_its_declaration_and_keeps_its_place(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_services(bus):
        await register(bus)
        await record(bus, ["one", "two", "three"])
        records = await fetch(bus, limit=2)
        await mark(bus, [records[0].id])
    monkeypatch.setattr("agents.services.stock.WINDOW", 2048)
    async with run_services(bus):
        assert (await bus.js.consumer_info(EPISODES, "svc-dream")).config.max_ack_pending == 2048
        (info,) = await list_services(bus)
        assert (info.place, info.delivered, info.lag) == (records[0].id, records[1].id, 2)
        assert questions_of(await fetch(bus)) == ["two", "three"]


async def test_a_registration_that_somebody_narrowed_is_counted_and_serves_as_it_is(bus: Bus) -> None:
    """Bringing it back would pass over what was recorded meanwhile."""
    degraded = metrics.DEGRADED.labels("services.consumer")
    async with run_services(bus):
        await register(bus, subjects=("episode.*",))
        (event, *_) = await record(bus, ["one", "two", "three"])
        config = (await bus.js.consumer_info(EPISODES, "svc-dream")).config
        narrow = config.evolve(filter_subjects=[bus.subjects.stage("episode.forgotten")])
        await bus.js.add_consumer(EPISODES, narrow)
        await forget(bus, event)
        subscription = await bus.js.pull_subscribe_bind(durable="svc-dream", stream=EPISODES)
        (tombstone,) = await subscription.fetch(1, timeout=2)
        await tombstone.ack_sync()
        assert (await fetch(bus))[-1].subject == "episode.forgotten"
        before = degraded._value.get()
    async with run_services(bus):
        assert degraded._value.get() == before + 1
        assert (await bus.js.consumer_info(EPISODES, "svc-dream")).config.filter_subjects == narrow.filter_subjects
        assert questions_of(await fetch(bus)) == ["two", "three", "forgotten"]
