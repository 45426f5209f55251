"""Related old episodes get a summary, over both pairs of stores; the worker is scripted, the rest is real."""

import random
from pathlib import Path

import pytest
from msgspec.structs import replace
from nats.js.api import AckPolicy, ConsumerConfig

from agents.memory.agent import MemoryAgent
from agents.memory.clusters import OldEpisode, plan_summaries
from agents.memory.context import unit as normalised
from agents.memory.search import find
from agents.memory.settings import MemorySettings
from agents.memory.sleep import midnight
from agents.memory.stores.pair import Stores
from agents.memory.stores.stored import Lookup
from bus.connection import Bus
from bus.topology import EPISODES
from schemas.calls import MEMORY_FORGET, MEMORY_REBUILD, MEMORY_SLEEP, MEMORY_STATS, MEMORY_VERIFY
from schemas.errors import StageFailed
from schemas.jobs import Job
from schemas.memory import (
    ForgetRequest,
    RebuildRequest,
    SleepReply,
    SleepRequest,
    StatsRequest,
    VerifyRequest,
)
from tests.agents.memory.memories import eventually, run_memory_agent
from tests.agents.memory.pairs import PAIRS, pair_settings
from tests.agents.memory.scenes import SIZE, USER, answer_ready, owner, turn, unit
from tests.agents.scripted import scripted_worker, user_text

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
    memory_settings = pair_settings(request, tmp_path, monkeypatch)
    stores = Stores(memory_settings)
    async with stores.open(_do_nothing):
        await stores.renew(_do_nothing)  # a server may have served another test
    return memory_settings


async def _do_nothing() -> None:
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
        await bus.publish(answer_ready(envelope, about(topic, number), text=text, answer=f"Fact {number} of {topic}."))


async def wait_for_agreement(bus: Bus, count: int) -> None:
    """Wait until the stores hold the whole record."""

    async def is_whole() -> bool:
        reply = await bus.request(MEMORY_VERIFY, VerifyRequest(), timeout=10.0)
        return (reply.recorded, reply.waiting, reply.agrees) == (count, 0, True)

    await eventually(is_whole)


async def request_sleep(bus: Bus, **more: object) -> SleepReply:
    """Sleep over everything that is recorded."""
    request = SleepRequest(before=LATER, **more)  # type: ignore[arg-type]
    return await bus.request(MEMORY_SLEEP, request, timeout=30.0)


async def read_state(agent: MemoryAgent, tenant: str) -> tuple[object, ...]:
    """All that the stores tell of a tenant."""
    atlas, trace = agent._stores.atlas, agent._stores.trace
    texts = await atlas.read(sorted(await atlas.keys(tenant=tenant)))
    matches = await atlas.search(Lookup(owner=owner(tenant), vector=unit(1), text="fact", limit=99))
    scores = sorted((match.episode_id, round(match.similarity, 5), round(match.lexical, 5)) for match in matches)
    return texts, scores, await trace.edges(tenant=tenant), await trace.keys(tenant=tenant)


def sum_up(job: Job) -> str:
    """A summary that keeps every fact."""
    return " ".join(line for line in user_text(job).splitlines() if line.startswith("Fact"))


@both
async def test_related_episodes_are_summed_up_once_and_nothing_is_lost(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings) as agent, scripted_worker(bus, sum_up) as worker:
        await tell(bus, "ann", 1, 2, 1, 2, 1, 2, 3)
        await tell(bus, "bob", 1, 1, 1)
        await wait_for_agreement(bus, 10)
        first = await request_sleep(bus)
        assert [(item.tenant, len(item.episodes)) for item in first.merged] == [("ann", 3), ("ann", 3), ("bob", 3)]
        assert {item.text for item in first.merged if item.tenant == "ann"} == {
            "Fact 0 of 1. Fact 2 of 1. Fact 4 of 1.",
            "Fact 1 of 2. Fact 3 of 2. Fact 5 of 2.",
        }
        assert {job.lane for job in worker.jobs} == {"background"}
        await wait_for_agreement(bus, 13)

        lookup = Lookup(owner=owner(), vector=about(1, 99), text="topic 1", limit=32)
        by_text = {
            item.match.question + item.match.answer: item
            for item in await find(agent._stores, lookup, now=0.0, settings=settings)
        }
        facts = [
            f"What of topic {topic}, question {number}?Fact {number} of {topic}."
            for number, topic in enumerate((1, 2, 1, 2, 1, 2, 3))
        ]
        assert set(facts) < set(by_text)
        assert sum("summed up in" in " ".join(by_text[fact].reasons) for fact in facts) == 6
        assert not any("bob" in item.match.session_id for item in by_text.values())

        again = await request_sleep(bus)
        assert (len(again.merged), again.known, again.left, len(worker.jobs)) == (0, 3, 0, 3)
        later = await bus.request(MEMORY_SLEEP, SleepRequest(before=LATER + 1), timeout=30.0)
        assert (len(later.merged), later.known) == (0, 0)  # a summed up episode is not summed up again

        for tenant in (None, "ann"):
            before = await read_state(agent, "ann"), await read_state(agent, "bob")
            request = RebuildRequest(tenant=tenant)
            reply = await bus.request(MEMORY_REBUILD, request, timeout=30.0)
            assert reply.episodes == (13 if tenant is None else 9)
            assert (await read_state(agent, "ann"), await read_state(agent, "bob")) == before
        assert len(worker.jobs) == 3
        stats = await bus.request(MEMORY_STATS, StatsRequest(tenant="ann"), timeout=5.0)
        assert (stats.atlas_episodes, stats.trace_episodes, stats.edges["SUMMARISES"]) == (9, 9, 6)


@both
@pytest.mark.parametrize("named", [{"session_id": "ann-2"}, {"turn_id": turn(tenant="ann", key="ann2").turn_id}])
async def test_forgetting_a_session_or_turn_forgets_the_summaries_of_it(
    bus: Bus, settings: MemorySettings, named: dict[str, str]
) -> None:
    async with run_memory_agent(bus, settings) as agent, scripted_worker(bus, sum_up):
        await tell(bus, "ann", 1, 1, 1, 1)
        await wait_for_agreement(bus, 4)
        (summary,) = (await request_sleep(bus)).merged
        assert len(summary.episodes) == 4
        forget = ForgetRequest(user=USER, tenant="ann", **named)
        assert (await bus.request(MEMORY_FORGET, forget, timeout=10.0)).episodes == 1
        await wait_for_agreement(bus, 3)
        atlas = agent._stores.atlas
        matches = await atlas.read(sorted(await atlas.keys()))
        assert "Fact 2" not in "".join(match.question + match.answer for match in matches.values())
        assert {match.summary for match in matches.values()} == {""}
        (new,) = (await request_sleep(bus)).merged
        assert new.text == "Fact 0 of 1. Fact 1 of 1. Fact 3 of 1."


@here
async def test_an_unacknowledged_episode_is_left_alone(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings), scripted_worker(bus, sum_up):
        await tell(bus, "ann", 1, 1, 1)
        await wait_for_agreement(bus, 3)
        config = ConsumerConfig(durable_name="dream", ack_policy=AckPolicy.EXPLICIT)
        await bus.js.add_consumer(EPISODES, config)
        subscription = await bus.js.pull_subscribe_bind(durable="dream", stream=EPISODES)
        messages = await subscription.fetch(3, timeout=5)
        await messages[0].ack_sync()
        first = await request_sleep(bus)
        assert (len(first.merged), first.held, first.held_by) == (0, 2, "dream")
        for message in messages[1:]:
            await message.ack_sync()
        second = await request_sleep(bus)
        assert (len(second.merged), second.held, second.held_by) == (1, 0, "")
        await subscription.unsubscribe()


@here
async def test_a_model_that_fails_leaves_the_summary_to_the_next_sleep(bus: Bus, settings: MemorySettings) -> None:
    fail = [True]

    def fail_once(job: Job) -> str:
        if fail.pop() if fail else False:
            raise StageFailed("out of memory")
        return sum_up(job)

    async with run_memory_agent(bus, settings), scripted_worker(bus, fail_once):
        await tell(bus, "ann", 1, 1, 1)
        await wait_for_agreement(bus, 3)
        reply = await request_sleep(bus)
        assert (len(reply.merged), reply.left) == (0, 1)
        assert len((await request_sleep(bus)).merged) == 1


@here
async def test_an_agent_with_a_sleep_interval_sleeps_by_itself(bus: Bus, settings: MemorySettings) -> None:
    often = replace(settings, sleep_every=0.2, sleep_age=-86400.0)
    async with run_memory_agent(bus, often), scripted_worker(bus, sum_up):
        await tell(bus, "ann", 1, 1, 1)
        await wait_for_agreement(bus, 4)


def old(number: int, topic: int) -> OldEpisode:
    """An old episode about a topic."""
    vector = normalised(about(topic, number))
    return OldEpisode(
        episode_id=f"e{number}", turn_id=f"t{number}", seq=number, created_at=number, text="", vector=vector
    )


def test_the_plan_does_not_depend_on_the_order_of_reading(tmp_path: Path) -> None:
    settings = MemorySettings(data_dir=tmp_path, sleep_most=4)
    episodes = [old(number, number % 3) for number in range(27)]
    parts = plan_summaries(episodes, settings=settings)
    assert [[episode.seq for episode in part] for part in parts] == [
        [episode.seq for episode in part] for part in plan_summaries(episodes[::-1], settings=settings)
    ]
    assert [len(part) for part in parts] == [3] * 9
    assert all(len({episode.seq % 3 for episode in part}) == 1 for part in parts)
    assert sorted(episode.seq for part in parts for episode in part) == list(range(27))
    assert plan_summaries(episodes[:1], settings=settings) == []


def test_two_sleeps_of_one_day_plan_alike() -> None:
    assert midnight(90_000.0) == midnight(170_000.0) == 86_400.0
