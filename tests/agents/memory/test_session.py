"""A session that goes on: the memory brings its last turns, on a real bus with real stores."""

from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from agents.memory.episodes import build_record, episode_id
from agents.memory.settings import MemorySettings
from bus.connection import Bus
from bus.topology import EPISODES
from schemas.chat import Message
from schemas.envelope import Envelope
from schemas.events import EpisodeRecorded, RecallDone, TurnFailed
from schemas.findings import Plan
from tests.agents.memory.memories import eventually, run_memory_agent, wait_for_projection
from tests.agents.memory.scenes import SIZE, answer_ready, query_routed, turn, unit
from tests.agents.scripted import degraded_count

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path: Path) -> MemorySettings:
    return MemorySettings(data_dir=tmp_path / "memory", vector_size=SIZE, status_interval=0.05)


async def go_on(
    bus: Bus, envelope: Envelope, *messages: Message, seed: int = 9, plan: Plan | None = None, history: str = "session"
) -> RecallDone:
    """Ask as the router does, with ``messages`` and the session's history."""
    routed = query_routed(envelope, unit(seed))
    route = routed.route if plan is None else msgspec.structs.replace(routed.route, plan=plan)
    query: Any = msgspec.structs.replace(routed.query, messages=messages, history=history)
    await bus.publish(msgspec.structs.replace(routed, query=query, route=route))
    done = await eventually(lambda: bus.last(RecallDone, envelope.turn_id))
    assert isinstance(done, RecallDone)
    return done


def user(text: str) -> Message:
    return Message(role="user", content=text)


def contents(done: RecallDone) -> list[str]:
    return [message.content for message in done.query.messages]


async def answer(bus: Bus, envelope: Envelope, text: str, reply: str, *, seed: int = 1) -> None:
    """Answer a turn, and do not wait for its record."""
    await bus.publish(answer_ready(envelope, unit(seed), text=text, answer=reply))


async def test_the_sessions_turns_are_history_in_order_and_each_stands_once(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings):
        first, second = turn(), turn()
        await answer(bus, first, "I have 21 apples.", "Noted.", seed=1)
        await wait_for_projection(bus, 1, 1)
        await answer(bus, second, "And 4 pears.", "Fine.", seed=2)
        await answer(bus, turn(session="other"), "My sister has 5 plums.", "Good.", seed=1)
        await answer(bus, turn(tenant="bob"), "I have 7 nuts.", "Well.", seed=1)
        await wait_for_projection(bus, 4, 4)
        third = turn()
        done = await go_on(bus, third, Message(role="system", content="Be brief."), user("Double that."), seed=1)
        assert contents(done) == ["Be brief.", "I have 21 apples.", "Noted.", "And 4 pears.", "Fine.", "Double that."]
        assert done.query.text == "Double that."
        assert done.recall.history == tuple(
            episode_id(tenant="ann", turn_id=envelope.turn_id) for envelope in (first, second)
        )
        assert [hit.question for hit in done.recall.hits] == ["My sister has 5 plums."]


async def test_a_dialogue_stays_in_order_when_the_clock_is_set_back_in_it(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings):
        first = answer_ready(turn(), unit(1), text="I have 21 apples.", answer="Noted.")
        ahead = msgspec.structs.replace(first.envelope, created_at=first.envelope.created_at + 120.0)
        await bus.publish(msgspec.structs.replace(first, envelope=ahead))
        await wait_for_projection(bus, 1, 1)
        second = turn()
        done = await go_on(bus, second, user("And 4 pears."), seed=2)
        ready = answer_ready(second, unit(2), text="And 4 pears.", answer="Fine.")
        await bus.publish(msgspec.structs.replace(ready, recall=done.recall))
        await wait_for_projection(bus, 2, 2)
        third = await go_on(bus, turn(), user("Double that."))
        assert contents(third) == ["I have 21 apples.", "Noted.", "And 4 pears.", "Fine.", "Double that."]


@pytest.mark.parametrize("behind", ["store", "record"])
async def test_a_turn_whose_history_is_missing_is_later_than_its_sessions_when_the_clock_is_set_back(
    bus: Bus, settings: MemorySettings, monkeypatch: pytest.MonkeyPatch, behind: str
) -> None:
    impatient = msgspec.structs.replace(settings, history_timeout=0.2)
    async with run_memory_agent(bus, impatient) as agent:
        stuck = anyio.Event()
        if behind == "record":
            monkeypatch.setattr("agents.memory.agent.build_record", _slow_record(stuck))
        first = answer_ready(turn(), unit(1), text="I have 21 apples.", answer="Noted.")
        ahead = first.envelope.created_at + 120.0
        await bus.publish(
            msgspec.structs.replace(first, envelope=msgspec.structs.replace(first.envelope, created_at=ahead))
        )
        await bus.publish(answer_ready(turn(session="other"), unit(3), text="My sister has 5 plums.", answer="Good."))
        if behind == "store":
            await wait_for_projection(bus, 2, 2)
            await agent._stores.atlas.close()
        second = turn()
        done = await go_on(bus, second, user("And 4 pears."), seed=2)
        assert (done.recall.history, done.recall.history_partial) == ((), True)
        stuck.set()
        await eventually(lambda: bus.last(EpisodeRecorded, first.envelope.turn_id, stream=EPISODES))
        ready = answer_ready(second, unit(2), text="And 4 pears.", answer="Fine.")
        await bus.publish(msgspec.structs.replace(ready, recall=done.recall))
        recorded = await eventually(lambda: bus.last(EpisodeRecorded, second.turn_id, stream=EPISODES))
        assert ahead < recorded.episode.created_at < ahead + 1.0


async def test_history_comes_only_to_who_asks_for_it(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings):
        await answer(bus, turn(), "I have 21 apples.", "Noted.")
        await wait_for_projection(bus, 1, 1)
        assert contents(await go_on(bus, turn(), user("Double that."), history="none")) == ["Double that."]
        assert contents(await go_on(bus, turn(session="new"), user("Double that."))) == ["Double that."]


async def test_small_talk_and_a_plan_without_recall_have_history_too(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings):
        await answer(bus, turn(), "I have 21 apples.", "Noted.")
        await wait_for_projection(bus, 1, 1)
        thanks = await go_on(bus, turn(), user("Thanks!"), seed=1)
        assert (contents(thanks), thanks.recall.hits) == (["I have 21 apples.", "Noted.", "Thanks!"], ())
        plain = await go_on(bus, turn(), user("Double that."), plan=Plan(level="fast", recall=False))
        assert contents(plain) == ["I have 21 apples.", "Noted.", "Double that."]


async def test_messages_of_the_client_itself_win_and_are_not_quoted_beside_it(
    bus: Bus, settings: MemorySettings
) -> None:
    async with run_memory_agent(bus, settings):
        await answer(bus, turn(), "I have 21 apples.", "Noted.")
        await wait_for_projection(bus, 1, 1)
        own = (user("I have 21 apples."), Message(role="assistant", content="Noted, 21."), user("Double that."))
        for history in ("session", "none"):
            done = await go_on(bus, turn(), *own, seed=1, history=history)
            assert done.query.messages == own
            assert (done.recall.history, done.recall.hits) == ((), ())


async def test_a_message_sent_at_once_reads_the_last_answer(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings):
        for number in range(8):
            await answer(bus, turn(), f"This is remark {number}.", "Noted.", seed=number)
            done = await go_on(bus, turn(), user("Which remark was the last?"), seed=40)
            assert contents(done)[-3:-1] == [f"This is remark {number}.", "Noted."]


async def test_only_the_newest_whole_turns_within_the_budget_are_read(bus: Bus, settings: MemorySettings) -> None:
    small = msgspec.structs.replace(settings, history_tokens=12)
    async with run_memory_agent(bus, small):
        for number in range(4):
            await answer(bus, turn(), f"Remark {number} here.", "Noted.", seed=number)  # 4 + 2 tokens of 4 characters
            await wait_for_projection(bus, number + 1, number + 1)
        done = await go_on(bus, turn(), user("And?"), seed=40)
        assert contents(done) == ["Remark 2 here.", "Noted.", "Remark 3 here.", "Noted.", "And?"]


@pytest.mark.parametrize("store", ["atlas", "trace"])
async def test_a_store_that_is_away_costs_the_history_and_not_the_turn(
    bus: Bus, settings: MemorySettings, store: str
) -> None:
    async with run_memory_agent(bus, settings) as agent:
        await answer(bus, turn(), "I have 21 apples.", "Noted.")
        await wait_for_projection(bus, 1, 1)
        await {"atlas": agent._stores.atlas, "trace": agent._stores.trace._graph}[store].close()
        before = degraded_count("history.failed")
        assert contents(await go_on(bus, turn(), user("Double that."))) == ["Double that."]
        assert degraded_count("history.failed") == before + 1


async def test_a_record_that_does_not_come_holds_the_turn_up_for_a_bounded_time(
    bus: Bus, settings: MemorySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = anyio.Event()

    impatient = msgspec.structs.replace(settings, history_timeout=0.2)
    async with run_memory_agent(bus, impatient):
        await answer(bus, turn(), "I have 21 apples.", "Noted.")
        await wait_for_projection(bus, 1, 1)
        before = degraded_count("history.late")
        monkeypatch.setattr("agents.memory.agent.build_record", _slow_record(stuck))
        await answer(bus, turn(), "And 4 pears.", "Fine.", seed=2)
        started = anyio.current_time()
        done = await go_on(bus, turn(), user("Double that."))
        assert anyio.current_time() - started < 5.0
        assert contents(done) == ["I have 21 apples.", "Noted.", "Double that."]
        assert degraded_count("history.late") == before + 1
        stuck.set()
        await wait_for_projection(bus, 2, 2)


def _slow_record(go: anyio.Event) -> Any:
    def build(event: Any, **embedding: Any) -> EpisodeRecorded:
        anyio.from_thread.run(go.wait)
        return build_record(event, **embedding)

    return build


async def test_raw_turns_have_no_history_and_say_so(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings):
        envelope = turn()
        routed = query_routed(envelope, unit(1))
        route = msgspec.structs.replace(routed.route, plan=Plan(level="raw"))
        query = msgspec.structs.replace(routed.query, history="session")
        await bus.publish(msgspec.structs.replace(routed, query=query, route=route))
        failure = await eventually(lambda: bus.last(TurnFailed, envelope.turn_id))
        assert (failure.code, failure.retryable) == ("invalid_request", False)
        assert "history" in failure.message


async def test_the_record_keeps_the_messages_as_the_model_read_them(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings):
        await answer(bus, turn(), "I have 21 apples.", "Noted.")
        await wait_for_projection(bus, 1, 1)
        second = turn()
        done = await go_on(bus, second, user("Double that."))
        ready = answer_ready(second, unit(2), text="Double that.", answer="42.")
        await bus.publish(msgspec.structs.replace(ready, query=done.query, recall=done.recall))
        recorded = await eventually(lambda: bus.last(EpisodeRecorded, second.turn_id, stream=EPISODES))
        assert recorded.episode.messages == done.query.messages
        assert recorded.episode.history_ids == done.recall.history
        assert recorded.episode.question == "Double that."
        third = await go_on(bus, turn(), user("And again."))
        assert contents(third) == ["I have 21 apples.", "Noted.", "Double that.", "42.", "And again."]
