"""The memory on a real bus with real stores."""

import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
import pytest

from agents.memory.agent import MemoryAgent
from agents.memory.episodes import build_record, episode_id
from agents.memory.progress import PROJECTION
from agents.memory.projection import project_episodes
from agents.memory.settings import MemorySettings
from agents.memory.stores.points import Atlas
from agents.memory.stores.stored import Lookup
from bus import dead_letters, metrics
from bus.connection import Bus
from bus.topology import EPISODES
from schemas.calls import MEMORY_REBUILD, MEMORY_SEARCH, MEMORY_VERIFY
from schemas.envelope import Envelope
from schemas.errors import KikiError, SetupError, Unavailable
from schemas.events import EpisodeRecorded, RecallDone
from schemas.memory import RebuildRequest, SearchRequest, VerifyRequest
from tests.agents.memory.memories import eventually, run_memory_agent, wait_for_projection
from tests.agents.memory.scenes import SIZE, USER, answer_ready, near, owner, query_routed, turn, unit
from tests.agents.scripted import degraded_count

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path: Path) -> MemorySettings:
    """A fresh directory; gauges that are read often."""
    return MemorySettings(
        data_dir=tmp_path / "memory", vector_size=SIZE, lock_timeout=0.1, status_interval=0.05, projection_batch=4
    )


async def request_recall(bus: Bus, envelope: Envelope, seed: int, *, recall: bool = True) -> RecallDone:
    """Ask as the router does, and wait for what the memory says."""
    await bus.publish(query_routed(envelope, near(seed), text="Who?", recall=recall))
    event = await eventually(lambda: bus.last(RecallDone, envelope.turn_id))
    assert isinstance(event, RecallDone)
    return event


async def answer_turn(bus: Bus, envelope: Envelope, seed: int, *, answer: str = "that.", text: str = "what?") -> None:
    """Answer a turn and wait for its record."""
    await bus.publish(answer_ready(envelope, unit(seed), answer=answer, text=text))
    await eventually(lambda: bus.last(EpisodeRecorded, envelope.turn_id, stream=EPISODES))


async def count_records(bus: Bus) -> int:
    """Messages in the record."""
    return int((await bus.js.stream_info(EPISODES)).state.messages)


async def test_an_answered_turn_is_recalled_by_a_later_one_and_by_no_other_tenant(
    bus: Bus, settings: MemorySettings
) -> None:
    async with run_memory_agent(bus, settings):
        first = turn(tenant="ann")
        assert (await request_recall(bus, first, 1)).recall.hits == ()
        await answer_turn(bus, first, 1, text="Name of my cat?", answer="Milo.")
        await wait_for_projection(bus, 1, 1)

        later = await request_recall(bus, turn(tenant="ann"), 1)
        (hit,) = later.recall.hits
        assert (hit.question, hit.answer, hit.turn_id) == ("Name of my cat?", "Milo.", first.turn_id)
        assert hit.episode_id == episode_id(tenant="ann", turn_id=first.turn_id)
        assert [reason.split()[0] for reason in hit.reasons] == ["dense", "words", "recency"]
        assert [timing.stage for timing in later.timings] == ["router", "memory"]

        assert (await request_recall(bus, turn(tenant="bob"), 1)).recall.hits == ()
        assert (await request_recall(bus, turn(tenant="ann"), 2)).recall.hits == ()  # below the floor
        assert (
            await request_recall(bus, turn(tenant="ann"), 1, recall=False)
        ).recall.hits == ()  # left out by the plan
        status = await wait_for_projection(bus, 1, 1)
        assert (status.gauges["recalls_total"], status.gauges["hits_total"]) == (4, 1)
        assert status.ready


async def test_a_turn_without_an_embedding_is_recalled_by_words_and_counted(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings):
        await answer_turn(bus, turn(), 1, text="The order XJ-42 ships to Lyon", answer="Noted.")
        await wait_for_projection(bus, 1, 1)
        count = degraded_count("recall.no_embedding")
        later = turn()
        await bus.publish(query_routed(later, (), text="Where does the order XJ-42 ship?"))
        done = await eventually(lambda: bus.last(RecallDone, later.turn_id))
        assert [hit.question for hit in done.recall.hits] == ["The order XJ-42 ships to Lyon"]
        assert degraded_count("recall.no_embedding") == count + 1


async def test_a_turn_does_not_recall_itself(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings):
        again = turn()
        await answer_turn(bus, again, 1)
        await wait_for_projection(bus, 1, 1)
        assert (await request_recall(bus, again, 1)).recall.hits == ()


async def test_an_answer_that_comes_twice_is_recorded_once(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings):
        event = answer_ready(turn(), unit(1))
        await bus.publish(event)
        await bus.publish(event, msg_id="again")  # the broker takes it for another message
        await wait_for_projection(bus, 1, 1)
        # the broker has forgotten the id of the first record: only the stream itself still knows
        await bus.publish(build_record(answer_ready(turn(key="other"), unit(2))), msg_id="forgotten")
        await bus.publish(answer_ready(turn(key="other"), unit(2)))
        await bus.publish(answer_ready(turn(key="last"), unit(3)))
        await wait_for_projection(bus, 3, 3)
        assert await count_records(bus) == 3


async def test_the_plan_may_leave_the_record_out(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings):
        await bus.publish(answer_ready(turn(key="unrecorded"), unit(1), record=False))
        await answer_turn(bus, turn(), 2)
        await wait_for_projection(bus, 1, 1)
        assert await count_records(bus) == 1


async def test_an_answer_past_its_deadline_is_recorded(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings):
        await answer_turn(bus, turn(timeout=-1.0), 1)
        await wait_for_projection(bus, 1, 1)


async def test_a_store_that_fails_does_not_hold_the_turn_up(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings) as agent:
        await answer_turn(bus, turn(), 1)
        await wait_for_projection(bus, 1, 1)
        before = metrics.DEGRADED.labels("recall.failed")._value.get()
        await agent._stores.atlas.close()
        assert (await request_recall(bus, turn(), 1)).recall.hits == ()
        assert metrics.DEGRADED.labels("recall.failed")._value.get() == before + 1


async def test_a_slow_store_does_not_hold_the_turn_up(
    bus: Bus, settings: MemorySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = msgspec.structs.replace(settings, recall_timeout=0.05)
    finish = threading.Event()

    def search_slowly(*_: Any, **__: Any) -> list[Any]:
        assert finish.wait(60)
        return []

    async with run_memory_agent(bus, impatient):
        before = metrics.DEGRADED.labels("recall.failed")._value.get()
        with monkeypatch.context() as patch:
            patch.setattr(Atlas, "search", search_slowly)
            try:
                assert (await request_recall(bus, turn(), 1)).recall.hits == ()
            finally:
                finish.set()
        assert metrics.DEGRADED.labels("recall.failed")._value.get() == before + 1
        await answer_turn(bus, turn(), 1)
        await wait_for_projection(bus, 1, 1)


async def test_recall_takes_only_a_share_of_a_short_turn(
    bus: Bus, settings: MemorySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = threading.Event()

    def search_slowly(*_: Any, **__: Any) -> list[Any]:
        assert finish.wait(60)
        return []

    async with run_memory_agent(bus, msgspec.structs.replace(settings, recall_timeout=60.0)):
        with monkeypatch.context() as patch:
            patch.setattr(Atlas, "search", search_slowly)
            envelope = turn(timeout=8.0)
            try:
                event = await request_recall(bus, envelope, 1)
            finally:
                finish.set()
    assert event.recall.hits == ()
    assert event.timings[-1].finished_at < envelope.deadline - 4.0


async def test_an_answer_is_recorded_when_the_recall_in_hand_ends(
    bus: Bus, settings: MemorySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.memory.priority.PATIENCE", 60.0)
    patient = msgspec.structs.replace(settings, recall_timeout=60.0)
    searching, finish = threading.Event(), threading.Event()

    def search_slowly(*_: Any, **__: Any) -> list[Any]:
        searching.set()
        assert finish.wait(60)
        return []

    async with run_memory_agent(bus, patient):
        question, answer = turn(timeout=60.0), turn()
        with monkeypatch.context() as patch:
            patch.setattr(Atlas, "search", search_slowly)
            try:
                await bus.publish(query_routed(question, unit(1)))
                assert await anyio.to_thread.run_sync(searching.wait, 60)
                await bus.publish(answer_ready(answer, unit(1)))
                await anyio.sleep(0.5)
                assert await bus.last(EpisodeRecorded, answer.turn_id, stream=EPISODES) is None
            finally:
                finish.set()
            await eventually(lambda: bus.last(EpisodeRecorded, answer.turn_id, stream=EPISODES))


@pytest.mark.parametrize("name", ["atlas", "trace"])
async def test_a_broken_or_lost_store_is_made_again_from_the_record(
    bus: Bus, settings: MemorySettings, name: str
) -> None:
    async with run_memory_agent(bus, settings):
        for seed in range(3):
            await answer_turn(bus, turn(), seed, answer=f"answer {seed}")
        await wait_for_projection(bus, 3, 3)
    for path in (settings.data_dir / name).rglob("*"):
        if path.is_file():
            path.write_bytes(b"\xff" * 64)
    async with run_memory_agent(bus, settings):
        await wait_for_projection(bus, 3, 3)
        assert (await request_recall(bus, turn(), 2)).recall.hits[0].answer == "answer 2"
    settings.data_dir.rename(settings.data_dir.with_name("lost"))
    async with run_memory_agent(bus, settings):
        await wait_for_projection(bus, 3, 3)


async def test_rebuilding_gives_the_same_memory(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings) as agent:
        turns = [turn(session="long", key=f"k{seed}") for seed in range(9)]
        for seed, envelope in enumerate(turns):
            await answer_turn(bus, envelope, seed, answer=f"answer {seed}")
        await wait_for_projection(bus, 9, 9)

        async def read_state() -> tuple[Any, ...]:
            ask = Lookup(owner=owner(), vector=unit(0), text="what", limit=99)
            matches = await agent._stores.atlas.search(ask)
            by_id = sorted(matches, key=lambda match: match.episode_id)
            ids = [episode_id(tenant="ann", turn_id=envelope.turn_id) for envelope in turns]
            near = [await agent._stores.trace.neighbours(name, tenant="ann") for name in ids]
            return by_id, near

        before = await read_state()
        reply = await bus.request(MEMORY_REBUILD, RebuildRequest(), timeout=30.0)
        assert reply.episodes == 9
        assert await read_state() == before
        assert len(before[0]) == 9
        assert before[1][4].previous == episode_id(tenant="ann", turn_id=turns[3].turn_id)
        await answer_turn(bus, turn(), 20)
        await wait_for_projection(bus, 10, 10)


async def test_a_rebuild_passes_over_what_it_has_projected_and_takes_what_comes_meanwhile(
    bus: Bus, settings: MemorySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run_memory_agent(bus, settings) as agent:
        for seed in range(12):
            await answer_turn(bus, turn(), seed)
        await wait_for_projection(bus, 12, 12)
        projected: list[str] = []

        async def record_another(stores: Any, episodes: Any, **more: Any) -> None:
            await project_episodes(stores, episodes, **more)
            await answer_turn(bus, turn(key="meanwhile"), 12, answer="meanwhile")

        async def note(stores: Any, episodes: Any, **more: Any) -> None:
            projected.extend(episode.answer for episode in episodes)
            await project_episodes(stores, episodes, **more)

        monkeypatch.setattr("agents.memory.rebuild.project_episodes", record_another)
        monkeypatch.setattr("agents.memory.projection.project_episodes", note)
        await bus.request(MEMORY_REBUILD, RebuildRequest(), timeout=30.0)
        await wait_for_projection(bus, 13, 13)
        assert projected.count("meanwhile") == 1
        assert len(projected) <= settings.projection_batch + 1  # those that were in hand already
        assert agent._rebuilt_until == 0


async def test_a_rebuild_whose_batch_fails_goes_on_by_messages(
    bus: Bus, settings: MemorySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise Unavailable("the store cannot hold this batch.")

    async with run_memory_agent(bus, settings):
        for seed in range(5):
            await answer_turn(bus, turn(), seed)
        await wait_for_projection(bus, 5, 5)
        monkeypatch.setattr("agents.memory.rebuild.project_episodes", refuse)
        before = degraded_count("rebuild.by_messages")
        reply = await bus.request(MEMORY_REBUILD, RebuildRequest(), timeout=30.0)
        assert reply.episodes == 5
        assert degraded_count("rebuild.by_messages") == before + 1
        assert (await bus.request(MEMORY_VERIFY, VerifyRequest(), timeout=5.0)).agrees


async def test_a_rebuild_that_ends_half_way_is_finished_by_the_next_start(
    bus: Bus, settings: MemorySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = msgspec.structs.replace(settings, projection_ack_wait=2.0)  # what the first one has in hand comes again
    half_way = anyio.Event()
    batches: list[int] = []

    async def project_one_batch(stores: Any, episodes: Any, **more: Any) -> None:
        batches.append(len(episodes))
        if len(batches) == 2:
            half_way.set()
            await anyio.sleep_forever()
        await project_episodes(stores, episodes, **more)

    async with run_memory_agent(bus, settings):
        for seed in range(9):
            await answer_turn(bus, turn(), seed)
        await wait_for_projection(bus, 9, 9)
        with monkeypatch.context() as patch:
            patch.setattr("agents.memory.rebuild.BATCH", 4)
            patch.setattr("agents.memory.rebuild.project_episodes", project_one_batch)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(request_rebuild, bus)
                await half_way.wait()
                tasks.cancel_scope.cancel()
    assert batches == [4, 4]
    async with run_memory_agent(bus, settings):
        await wait_for_projection(bus, 9, 9)


async def request_rebuild(bus: Bus) -> None:
    """Ask for a rebuild, whose answer may never come."""
    await bus.request(MEMORY_REBUILD, RebuildRequest(), timeout=60.0)


async def test_a_second_rebuild_at_the_same_time_is_refused(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings) as agent:
        agent._rebuilding = True
        with pytest.raises(KikiError, match="already"):
            await bus.request(MEMORY_REBUILD, RebuildRequest(), timeout=5.0)


async def test_search_answers_within_tenant_and_session(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings):
        await answer_turn(bus, turn(session="a"), 1, answer="in a")
        await answer_turn(bus, turn(session="b"), 2, answer="in b")
        await answer_turn(bus, turn(tenant="bob", session="a"), 1, answer="of bob")
        await wait_for_projection(bus, 3, 3)

        async def search_answers(**more: Any) -> list[str]:
            request = SearchRequest(user=USER, tenant="ann", vector=unit(1), **more)
            return [hit.answer for hit in (await bus.request(MEMORY_SEARCH, request, timeout=5.0)).hits]

        assert await search_answers() == ["in a", "in b"]
        assert await search_answers(limit=1) == ["in a"]
        assert await search_answers(session_id="b") == ["in b"]


async def test_a_second_agent_on_the_same_directory_is_refused(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings):
        with pytest.raises(SetupError, match="another process"):
            async with MemoryAgent(settings).open(bus):
                pass
        await answer_turn(bus, turn(), 1)
        await wait_for_projection(bus, 1, 1)


async def test_lag_counts_what_is_recorded_and_not_yet_projected(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings) as agent:
        async with agent._stores.write_lock:
            for seed in range(3):
                await answer_turn(bus, turn(), seed)

            async def lags() -> bool:
                return agent.status().gauges["projection_lag"] == 3

            await eventually(lags)
        await wait_for_projection(bus, 3, 3)
        assert (await bus.js.consumer_info(EPISODES, PROJECTION)).num_pending == 0


async def test_a_poison_episode_is_buried_and_holds_no_other_up(
    bus: Bus, settings: MemorySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, poison = build_record(answer_ready(turn(), unit(1))), build_record(answer_ready(turn(), unit(2)))

    async def refuse_poison(stores: Any, episodes: Any, **more: Any) -> None:
        if any(episode.episode_id == poison.episode.episode_id for episode in episodes):
            raise Unavailable("the store cannot hold it.")
        await project_episodes(stores, episodes, **more)

    monkeypatch.setattr("agents.memory.projection.project_episodes", refuse_poison)
    monkeypatch.setattr("bus.handling.message.MAX_DELAY", 0.01)
    dead_counter = metrics.DEAD.labels(PROJECTION, "max_deliver")
    before = dead_counter._value.get()
    async with run_memory_agent(bus, settings):
        await bus.publish(poison)
        await bus.publish(good)
        await bus.js.publish(bus.subjects.stage(EpisodeRecorded.subject, "garbage"), b"{}")
        await wait_for_projection(bus, 1, 1)
        letters = [entry.letter async for entry in dead_letters.read_letters(bus)]
        assert sorted((letter.consumer, letter.reason.split(":")[0]) for letter in letters) == [
            (PROJECTION, "malformed"),
            (PROJECTION, "max_deliver"),
        ]
        assert dead_counter._value.get() == before + 1
        reply = await bus.request(MEMORY_VERIFY, VerifyRequest(), timeout=5.0)
        assert reply.missing_in_atlas == reply.missing_in_trace == (poison.episode.episode_id,)
