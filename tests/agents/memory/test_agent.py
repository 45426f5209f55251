"""The memory on a real bus with real stores."""

import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest

from agents.memory.agent import MemoryAgent
from agents.memory.episodes import episode_id, recorded
from agents.memory.progress import PROJECTION
from agents.memory.projection import apply
from agents.memory.settings import MemorySettings
from agents.memory.stores.points import Ask, Atlas
from bus import dead_letters, metrics
from bus.connection import Bus
from bus.topology import EPISODES
from schemas.envelope import Envelope
from schemas.errors import KikiError, SetupError, Unavailable
from schemas.events import EpisodeRecorded, RecallDone
from schemas.memory import RebuildReply, RebuildRequest, SearchReply, SearchRequest, VerifyReply, VerifyRequest
from tests.agents.memory.memories import eventually, projected, serving
from tests.agents.memory.scenes import SIZE, answered, routed, turn, unit

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path: Path) -> MemorySettings:
    """A fresh directory; gauges that are read often."""
    return MemorySettings(
        data_dir=tmp_path / "memory", vector_size=SIZE, lock_timeout=0.1, status_interval=0.05, projection_batch=4
    )


async def recalled(bus: Bus, envelope: Envelope, seed: int, *, recall: bool = True) -> RecallDone:
    """Ask as the router does, and wait for what the memory says."""
    await bus.publish(routed(envelope, unit(seed), recall=recall))
    found = await eventually(lambda: bus.last(RecallDone, envelope.turn_id))
    assert isinstance(found, RecallDone)
    return found


async def told(bus: Bus, envelope: Envelope, seed: int, *, answer: str = "that.", text: str = "what?") -> None:
    """Answer a turn and wait for its record."""
    await bus.publish(answered(envelope, unit(seed), answer=answer, text=text))
    await eventually(lambda: bus.last(EpisodeRecorded, envelope.turn_id, stream=EPISODES))


async def recorded_count(bus: Bus) -> int:
    """Messages in the record."""
    return int((await bus.js.stream_info(EPISODES)).state.messages)


async def test_an_answered_turn_is_recalled_by_a_later_one_and_by_no_other_tenant(
    bus: Bus, settings: MemorySettings
) -> None:
    async with serving(bus, settings):
        first = turn(tenant="ann")
        assert (await recalled(bus, first, 1)).recall.hits == ()
        await told(bus, first, 1, text="Name of my cat?", answer="Milo.")
        await projected(bus, 1, 1)

        later = await recalled(bus, turn(tenant="ann"), 1)
        (hit,) = later.recall.hits
        assert (hit.question, hit.answer, hit.turn_id) == ("Name of my cat?", "Milo.", first.turn_id)
        assert hit.episode_id == episode_id(tenant="ann", turn_id=first.turn_id)
        assert [reason.split()[0] for reason in hit.reasons] == ["dense", "words", "recency"]
        assert [timing.stage for timing in later.timings] == ["router", "memory"]

        assert (await recalled(bus, turn(tenant="bob"), 1)).recall.hits == ()
        assert (await recalled(bus, turn(tenant="ann"), 2)).recall.hits == ()  # below the floor
        assert (await recalled(bus, turn(tenant="ann"), 1, recall=False)).recall.hits == ()  # left out by the plan
        status = await projected(bus, 1, 1)
        assert (status.gauges["recalls_total"], status.gauges["hits_total"]) == (4, 1)
        assert status.ready


async def test_a_turn_does_not_recall_itself(bus: Bus, settings: MemorySettings) -> None:
    async with serving(bus, settings):
        again = turn()
        await told(bus, again, 1)
        await projected(bus, 1, 1)
        assert (await recalled(bus, again, 1)).recall.hits == ()


async def test_an_answer_that_comes_twice_is_recorded_once(bus: Bus, settings: MemorySettings) -> None:
    async with serving(bus, settings):
        event = answered(turn(), unit(1))
        await bus.publish(event)
        await bus.publish(event, msg_id="again")  # the broker takes it for another message
        await projected(bus, 1, 1)
        # the broker has forgotten the id of the first record: only the stream itself still knows
        await bus.publish(recorded(answered(turn(key="other"), unit(2))), msg_id="forgotten")
        await bus.publish(answered(turn(key="other"), unit(2)))
        await bus.publish(answered(turn(key="last"), unit(3)))
        await projected(bus, 3, 3)
        assert await recorded_count(bus) == 3


async def test_the_plan_may_leave_the_record_out(bus: Bus, settings: MemorySettings) -> None:
    async with serving(bus, settings):
        await bus.publish(answered(turn(key="unrecorded"), unit(1), record=False))
        await told(bus, turn(), 2)
        await projected(bus, 1, 1)
        assert await recorded_count(bus) == 1


async def test_an_answer_past_its_deadline_is_recorded(bus: Bus, settings: MemorySettings) -> None:
    async with serving(bus, settings):
        await told(bus, turn(timeout=-1.0), 1)
        await projected(bus, 1, 1)


async def test_a_store_that_fails_does_not_hold_the_turn_up(bus: Bus, settings: MemorySettings) -> None:
    async with serving(bus, settings) as agent:
        await told(bus, turn(), 1)
        await projected(bus, 1, 1)
        before = metrics.DEGRADED.labels("recall.failed")._value.get()
        await agent._stores.atlas.close()
        assert (await recalled(bus, turn(), 1)).recall.hits == ()
        assert metrics.DEGRADED.labels("recall.failed")._value.get() == before + 1


async def test_a_slow_store_does_not_hold_the_turn_up(
    bus: Bus, settings: MemorySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = msgspec.structs.replace(settings, recall_timeout=0.05)
    finish = threading.Event()

    def slow(*_: Any, **__: Any) -> list[Any]:
        assert finish.wait(60)
        return []

    async with serving(bus, impatient):
        before = metrics.DEGRADED.labels("recall.failed")._value.get()
        with monkeypatch.context() as patched:
            patched.setattr(Atlas, "search", slow)
            try:
                assert (await recalled(bus, turn(), 1)).recall.hits == ()
            finally:
                finish.set()
        assert metrics.DEGRADED.labels("recall.failed")._value.get() == before + 1
        await told(bus, turn(), 1)
        await projected(bus, 1, 1)


async def test_an_answer_is_recorded_when_the_recall_in_hand_ends(
    bus: Bus, settings: MemorySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.memory.priority.PATIENCE", 60.0)
    patient = msgspec.structs.replace(settings, recall_timeout=60.0)
    begun, finish = threading.Event(), threading.Event()

    def slow(*_: Any, **__: Any) -> list[Any]:
        begun.set()
        assert finish.wait(60)
        return []

    async with serving(bus, patient):
        asked, answer = turn(timeout=60.0), turn()
        with monkeypatch.context() as patched:
            patched.setattr(Atlas, "search", slow)
            try:
                await bus.publish(routed(asked, unit(1)))
                assert await anyio.to_thread.run_sync(begun.wait, 60)
                await bus.publish(answered(answer, unit(1)))
                await anyio.sleep(0.5)
                assert await bus.last(EpisodeRecorded, answer.turn_id, stream=EPISODES) is None
            finally:
                finish.set()
            await eventually(lambda: bus.last(EpisodeRecorded, answer.turn_id, stream=EPISODES))


@pytest.mark.parametrize("name", ["atlas", "trace"])
async def test_a_broken_or_lost_store_is_made_again_from_the_record(
    bus: Bus, settings: MemorySettings, name: str
) -> None:
    async with serving(bus, settings):
        for seed in range(3):
            await told(bus, turn(), seed, answer=f"answer {seed}")
        await projected(bus, 3, 3)
    for path in (settings.data_dir / name).rglob("*"):
        if path.is_file():
            path.write_bytes(b"\xff" * 64)
    async with serving(bus, settings):
        await projected(bus, 3, 3)
        assert (await recalled(bus, turn(), 2)).recall.hits[0].answer == "answer 2"
    settings.data_dir.rename(settings.data_dir.with_name("lost"))
    async with serving(bus, settings):
        await projected(bus, 3, 3)


async def test_rebuilding_gives_the_same_memory(bus: Bus, settings: MemorySettings) -> None:
    async with serving(bus, settings) as agent:
        turns = [turn(session="long", key=f"k{seed}") for seed in range(9)]
        for seed, envelope in enumerate(turns):
            await told(bus, envelope, seed, answer=f"answer {seed}")
        await projected(bus, 9, 9)

        async def state() -> tuple[Any, ...]:
            ask = Ask(tenant="ann", vector=unit(0), text="what", limit=99)
            matches = await agent._stores.atlas.search(ask)
            found = sorted(matches, key=lambda match: match.episode_id)
            ids = [episode_id(tenant="ann", turn_id=envelope.turn_id) for envelope in turns]
            near = [await agent._stores.trace.neighbours(one, tenant="ann") for one in ids]
            return found, near

        before = await state()
        reply = await bus.request("memory.rebuild", RebuildRequest(), RebuildReply, timeout=30.0)
        assert reply.episodes == 9
        assert await state() == before
        assert len(before[0]) == 9
        assert before[1][4].previous == episode_id(tenant="ann", turn_id=turns[3].turn_id)
        await told(bus, turn(), 20)
        await projected(bus, 10, 10)


async def test_only_one_rebuild_at_a_time(bus: Bus, settings: MemorySettings) -> None:
    async with serving(bus, settings) as agent:
        agent._rebuilding = True
        with pytest.raises(KikiError, match="already"):
            await bus.request("memory.rebuild", RebuildRequest(), RebuildReply, timeout=5.0)


async def test_search_answers_within_tenant_and_session(bus: Bus, settings: MemorySettings) -> None:
    async with serving(bus, settings):
        await told(bus, turn(session="a"), 1, answer="in a")
        await told(bus, turn(session="b"), 2, answer="in b")
        await told(bus, turn(tenant="bob", session="a"), 1, answer="of bob")
        await projected(bus, 3, 3)

        async def answers(**more: Any) -> list[str]:
            request = SearchRequest(tenant="ann", vector=unit(1), **more)
            return [hit.answer for hit in (await bus.request("memory.search", request, SearchReply, timeout=5.0)).hits]

        assert await answers() == ["in a", "in b"]
        assert await answers(limit=1) == ["in a"]
        assert await answers(session_id="b") == ["in b"]


async def test_a_second_agent_on_the_same_directory_is_refused(bus: Bus, settings: MemorySettings) -> None:
    async with serving(bus, settings):
        with pytest.raises(SetupError, match="another process"):
            async with MemoryAgent(settings).open(bus):
                pass
        await told(bus, turn(), 1)
        await projected(bus, 1, 1)


async def test_lag_counts_what_is_recorded_and_not_yet_projected(bus: Bus, settings: MemorySettings) -> None:
    async with serving(bus, settings) as agent:
        async with agent._stores.changing:
            for seed in range(3):
                await told(bus, turn(), seed)

            async def lags() -> bool:
                return agent.status().gauges["projection_lag"] == 3

            await eventually(lags)
        await projected(bus, 3, 3)
        assert (await bus.js.consumer_info(EPISODES, PROJECTION)).num_pending == 0


async def test_a_poison_episode_is_buried_and_holds_nobody_up(
    bus: Bus, settings: MemorySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, poison = recorded(answered(turn(), unit(1))), recorded(answered(turn(), unit(2)))

    async def refusing(stores: Any, episodes: Any, **more: Any) -> None:
        if any(one.episode_id == poison.episode.episode_id for one in episodes):
            raise Unavailable("the store cannot hold it.")
        await apply(stores, episodes, **more)

    monkeypatch.setattr("agents.memory.projection.apply", refusing)
    monkeypatch.setattr("bus.handler.MAX_DELAY", 0.01)
    buried = metrics.DEAD.labels(PROJECTION, "max_deliver")
    before = buried._value.get()
    async with serving(bus, settings):
        await bus.publish(poison)
        await bus.publish(good)
        await bus.js.publish(bus.subjects.stage(EpisodeRecorded.subject, "garbage"), b"{}")
        await projected(bus, 1, 1)
        letters = [filed.letter async for filed in dead_letters.letters(bus)]
        assert sorted((one.consumer, one.reason.split(":")[0]) for one in letters) == [
            (PROJECTION, "malformed"),
            (PROJECTION, "max_deliver"),
        ]
        assert buried._value.get() == before + 1
        found = await bus.request("memory.verify", VerifyRequest(), VerifyReply, timeout=5.0)
        assert found.missing_in_atlas == found.missing_in_trace == (poison.episode.episode_id,)
