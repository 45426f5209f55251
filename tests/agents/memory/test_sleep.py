"""Related old episodes get a summary, over both pairs of stores; the worker is scripted, the rest is real."""

import random
from pathlib import Path

import pytest
from msgspec.structs import replace
from nats.js.api import AckPolicy, ConsumerConfig

from agents.memory.agent import MemoryAgent
from agents.memory.clusters import Old, plan
from agents.memory.context import unit as normalised
from agents.memory.search import find
from agents.memory.settings import MemorySettings
from agents.memory.sleep import midnight
from agents.memory.stores.pair import Stores
from agents.memory.stores.points import Ask
from bus.connection import Bus
from bus.topology import EPISODES
from schemas.errors import StageFailed
from schemas.jobs import Job
from schemas.memory import (
    ForgetReply,
    ForgetRequest,
    RebuildReply,
    RebuildRequest,
    SleepReply,
    SleepRequest,
    StatsReply,
    StatsRequest,
    VerifyReply,
    VerifyRequest,
)
from tests.agents.memory.memories import eventually, serving
from tests.agents.memory.pairs import PAIRS, pair
from tests.agents.memory.scenes import SIZE, answered, turn, unit
from tests.agents.scripted import at_work, said

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
]

LATER = 4e9


both = pytest.mark.parametrize("settings", PAIRS, indirect=True)
here = pytest.mark.parametrize("settings", PAIRS[:1], indirect=True)


@pytest.fixture
async def settings(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemorySettings:
    """A fresh memory on the pair of stores that the test names."""
    found = pair(request, tmp_path, monkeypatch)
    stores = Stores(found)
    async with stores.opened(_nothing):
        await stores.renew(_nothing)  # a server may have served another test
    return found


async def _nothing() -> None:
    """There is no record yet."""


def about(topic: int, number: int) -> tuple[float, ...]:
    """A vector near the topic's, cosine about 0.8 with another of the same topic."""
    noise = random.Random(1000 * topic + number)
    raw = [value + noise.gauss(0.0, 0.5) / SIZE**0.5 for value in unit(topic)]
    return tuple(normalised(raw).tolist())


async def tell(bus: Bus, tenant: str, *topics: int) -> None:
    """An answered turn a topic, each in a session of its own."""
    for number, topic in enumerate(topics):
        envelope = turn(tenant=tenant, session=f"{tenant}-{number}", key=f"{tenant}{number}")
        text = f"What of topic {topic}, question {number}?"
        await bus.publish(answered(envelope, about(topic, number), text=text, answer=f"Fact {number} of {topic}."))


async def agreed(bus: Bus, recorded: int) -> None:
    """Wait until the stores hold the whole record."""

    async def whole() -> bool:
        found = await bus.request("memory.verify", VerifyRequest(), VerifyReply, timeout=10.0)
        return (found.recorded, found.waiting, found.agrees) == (recorded, 0, True)

    await eventually(whole)


async def asleep(bus: Bus, **more: object) -> SleepReply:
    """Sleep over everything that is recorded."""
    request = SleepRequest(before=LATER, **more)  # type: ignore[arg-type]
    return await bus.request("memory.sleep", request, SleepReply, timeout=30.0)


async def state(agent: MemoryAgent, tenant: str) -> tuple[object, ...]:
    """All that the stores tell of a tenant."""
    atlas, trace = agent._stores.atlas, agent._stores.trace
    found = await atlas.read(sorted(await atlas.keys(tenant=tenant)))
    matches = await atlas.search(Ask(tenant=tenant, vector=unit(1), text="fact", limit=99))
    scores = sorted((one.episode_id, round(one.similarity, 5), round(one.lexical, 5)) for one in matches)
    return found, scores, await trace.edges(tenant=tenant), await trace.keys(tenant=tenant)


def sum_up(job: Job) -> str:
    """A summary that keeps every fact."""
    return " ".join(line for line in said(job).splitlines() if line.startswith("Fact"))


@both
async def test_what_belongs_together_is_summed_up_once_and_nothing_is_lost(bus: Bus, settings: MemorySettings) -> None:
    async with serving(bus, settings) as agent, at_work(bus, sum_up) as worker:
        await tell(bus, "ann", 1, 2, 1, 2, 1, 2, 3)
        await tell(bus, "bob", 1, 1, 1)
        await agreed(bus, 10)
        first = await asleep(bus)
        assert [(one.tenant, len(one.episodes)) for one in first.merged] == [("ann", 3), ("ann", 3), ("bob", 3)]
        assert {one.text for one in first.merged if one.tenant == "ann"} == {
            "Fact 0 of 1. Fact 2 of 1. Fact 4 of 1.",
            "Fact 1 of 2. Fact 3 of 2. Fact 5 of 2.",
        }
        assert {job.lane for job in worker.jobs} == {"background"}
        await agreed(bus, 13)

        ask = Ask(tenant="ann", vector=about(1, 99), text="topic 1", limit=32)
        found = {
            one.match.question + one.match.answer: one
            for one in await find(agent._stores, ask, now=0.0, settings=settings)
        }
        facts = [
            f"What of topic {topic}, question {number}?Fact {number} of {topic}."
            for number, topic in enumerate((1, 2, 1, 2, 1, 2, 3))
        ]
        assert set(facts) < set(found)
        assert sum("summed up in" in " ".join(found[fact].reasons) for fact in facts) == 6
        assert not any("bob" in one.match.session_id for one in found.values())

        again = await asleep(bus)
        assert (len(again.merged), again.known, again.left, len(worker.jobs)) == (0, 3, 0, 3)
        later = await bus.request("memory.sleep", SleepRequest(before=LATER + 1), SleepReply, timeout=30.0)
        assert (len(later.merged), later.known) == (0, 0)  # a summed up episode is not summed up again

        for tenant in (None, "ann"):
            before = await state(agent, "ann"), await state(agent, "bob")
            request = RebuildRequest(tenant=tenant)
            reply = await bus.request("memory.rebuild", request, RebuildReply, timeout=30.0)
            assert reply.episodes == (13 if tenant is None else 9)
            assert (await state(agent, "ann"), await state(agent, "bob")) == before
        assert len(worker.jobs) == 3
        stats = await bus.request("memory.stats", StatsRequest(tenant="ann"), StatsReply, timeout=5.0)
        assert (stats.atlas_episodes, stats.trace_episodes, stats.edges["SUMMARISES"]) == (9, 9, 6)


@both
async def test_forgetting_a_session_forgets_what_was_told_of_it_again(bus: Bus, settings: MemorySettings) -> None:
    async with serving(bus, settings) as agent, at_work(bus, sum_up):
        await tell(bus, "ann", 1, 1, 1, 1)
        await agreed(bus, 4)
        (one,) = (await asleep(bus)).merged
        assert len(one.episodes) == 4
        forget = ForgetRequest(tenant="ann", session_id="ann-2")
        assert (await bus.request("memory.forget", forget, ForgetReply, timeout=10.0)).episodes == 1
        await agreed(bus, 3)
        atlas = agent._stores.atlas
        kept = await atlas.read(sorted(await atlas.keys()))
        assert "Fact 2" not in "".join(match.question + match.answer for match in kept.values())
        assert {match.summary for match in kept.values()} == {""}
        (new,) = (await asleep(bus)).merged
        assert new.text == "Fact 0 of 1. Fact 1 of 1. Fact 3 of 1."


@here
async def test_what_a_consumer_has_not_acknowledged_is_left_alone(bus: Bus, settings: MemorySettings) -> None:
    async with serving(bus, settings), at_work(bus, sum_up):
        await tell(bus, "ann", 1, 1, 1)
        await agreed(bus, 3)
        config = ConsumerConfig(durable_name="dream", ack_policy=AckPolicy.EXPLICIT)
        await bus.js.add_consumer(EPISODES, config)
        subscription = await bus.js.pull_subscribe_bind(durable="dream", stream=EPISODES)
        messages = await subscription.fetch(3, timeout=5)
        await messages[0].ack_sync()
        held = await asleep(bus)
        assert (len(held.merged), held.held, held.held_by) == (0, 2, "dream")
        for message in messages[1:]:
            await message.ack_sync()
        free = await asleep(bus)
        assert (len(free.merged), free.held, free.held_by) == (1, 0, "")
        await subscription.unsubscribe()


@here
async def test_a_model_that_fails_leaves_it_to_the_next_sleep(bus: Bus, settings: MemorySettings) -> None:
    fail = [True]

    def once(job: Job) -> str:
        if fail.pop() if fail else False:
            raise StageFailed("out of memory")
        return sum_up(job)

    async with serving(bus, settings), at_work(bus, once):
        await tell(bus, "ann", 1, 1, 1)
        await agreed(bus, 3)
        tired = await asleep(bus)
        assert (len(tired.merged), tired.left) == (0, 1)
        assert len((await asleep(bus)).merged) == 1


@here
async def test_an_agent_that_is_told_so_sleeps_by_itself(bus: Bus, settings: MemorySettings) -> None:
    often = replace(settings, sleep_every=0.2, sleep_age=-86400.0)
    async with serving(bus, often), at_work(bus, sum_up):
        await tell(bus, "ann", 1, 1, 1)
        await agreed(bus, 4)


def old(number: int, topic: int) -> Old:
    """An old episode about a topic."""
    vector = normalised(about(topic, number))
    return Old(episode_id=f"e{number}", turn_id=f"t{number}", seq=number, created_at=number, text="", vector=vector)


def test_the_plan_does_not_depend_on_the_order_of_reading(tmp_path: Path) -> None:
    settings = MemorySettings(data_dir=tmp_path, sleep_most=4)
    episodes = [old(number, number % 3) for number in range(27)]
    found = plan(episodes, settings=settings)
    assert [[one.seq for one in part] for part in found] == [
        [one.seq for one in part] for part in plan(episodes[::-1], settings=settings)
    ]
    assert [len(part) for part in found] == [3] * 9
    assert all(len({one.seq % 3 for one in part}) == 1 for part in found)
    assert sorted(one.seq for part in found for one in part) == list(range(27))
    assert plan(episodes[:1], settings=settings) == []


def test_two_sleeps_of_one_day_plan_alike() -> None:
    assert midnight(90_000.0) == midnight(170_000.0) == 86_400.0
