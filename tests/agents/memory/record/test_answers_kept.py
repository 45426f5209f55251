"""What was answered is kept until it is in the record, however old or large it is; what nobody took is not recorded."""

from pathlib import Path

import msgspec
import pytest

from agents.memory.forgetting import expire
from agents.memory.progress import RECORD, TAKEN
from agents.memory.settings import MemorySettings
from bus import record
from bus.connection import Bus
from bus.consumers import read_consumer
from bus.stream import measure_stream
from bus.topology import ANSWERS
from schemas.envelope import Envelope
from schemas.events import AnswerReady, AnswerTaken, TurnCancelled
from tests.agents.memory.memories import eventually, run_memory_agent
from tests.agents.memory.scenes import SIZE, answer_ready, turn, unit

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path: Path) -> MemorySettings:
    return MemorySettings(data_dir=tmp_path / "memory", vector_size=SIZE, lock_timeout=0.1, status_interval=0.05)


def awaited_answer(envelope: Envelope, *, answer: str = "that.") -> AnswerReady:
    event = answer_ready(envelope, unit(1), answer=answer)
    return msgspec.structs.replace(event, query=msgspec.structs.replace(event.query, awaited=True))


def taken(envelope: Envelope) -> AnswerTaken:
    return AnswerTaken(envelope=envelope.next(AnswerTaken.subject))


async def recorded_turns(bus: Bus) -> set[str]:
    return {episode.turn_id async for episode in record.read_episodes(bus)}


async def has_settled(bus: Bus) -> bool:
    """Whether both consumers that record answers have read everything."""
    states = [await read_consumer(bus, ANSWERS, name) for name in (RECORD, TAKEN)]
    return all(state is not None and not state.lag for state in states)


async def declare_consumers(bus: Bus, settings: MemorySettings) -> None:
    """A memory has run here before."""
    async with run_memory_agent(bus, settings):
        pass


async def test_an_awaited_answer_is_recorded_once_its_asker_takes_it(bus: Bus, settings: MemorySettings) -> None:
    envelope, left = turn(), turn()
    async with run_memory_agent(bus, settings):
        await bus.publish(awaited_answer(envelope))
        await bus.publish(awaited_answer(left))
        await eventually(lambda: has_settled(bus))
        assert await recorded_turns(bus) == set()
        await bus.publish(taken(envelope))
        await bus.js.publish(bus.subjects.of(taken(envelope)), msgspec.json.encode(taken(envelope)))  # once more
        await eventually(lambda: recorded_turns(bus))
        await eventually(lambda: has_settled(bus))
        assert await recorded_turns(bus) == {envelope.turn_id}
    assert len([episode async for episode in record.read_episodes(bus)]) == 1


async def test_a_turn_that_was_cancelled_first_is_not_recorded(bus: Bus, settings: MemorySettings) -> None:
    envelope = turn()
    await bus.publish(TurnCancelled(envelope=envelope.next("x"), reason="left"))
    await bus.js.publish(bus.subjects.of(awaited_answer(envelope)), msgspec.json.encode(awaited_answer(envelope)))
    await bus.publish(taken(envelope))
    async with run_memory_agent(bus, settings):
        await eventually(lambda: has_settled(bus))
        assert await recorded_turns(bus) == set()


async def test_an_answer_that_waits_for_its_record_is_not_removed_for_its_age(
    bus: Bus, settings: MemorySettings
) -> None:
    """Twelve questions are answered while the memory is stopped, and it comes back when they are old."""
    await declare_consumers(bus, settings)
    asked_on_the_bus, asked_over_http, not_taken = [[turn() for _ in range(4)] for _ in range(3)]
    for plain, awaited, left in zip(asked_on_the_bus, asked_over_http, not_taken, strict=True):
        await bus.publish(answer_ready(plain, unit(1)))
        await bus.publish(awaited_answer(awaited))
        await bus.publish(awaited_answer(left))
    for envelope in reversed(asked_over_http):
        await bus.publish(taken(envelope))
    assert await expire(bus, age=-1.0) == 0
    answered = {envelope.turn_id for envelope in (*asked_on_the_bus, *asked_over_http)}
    async with run_memory_agent(bus, settings):
        await eventually(lambda: has_all(bus, answered))
        await eventually(lambda: has_settled(bus))
        assert await recorded_turns(bus) == answered
        assert await expire(bus, age=-1.0) == 16
    assert (await measure_stream(bus, ANSWERS)).messages == 0


async def test_an_answer_that_was_taken_late_waits_alone(bus: Bus, settings: MemorySettings) -> None:
    """The consumer of answers has passed it, and that of taken ones has not."""
    await declare_consumers(bus, settings)
    late, other = turn(), turn()
    async with run_memory_agent(bus, settings):
        await bus.publish(awaited_answer(late))
        await bus.publish(awaited_answer(other))
        await bus.publish(taken(other))
        await eventually(lambda: has_all(bus, {other.turn_id}))
        await eventually(lambda: has_settled(bus))
    await bus.publish(taken(late))
    assert await expire(bus, age=-1.0) == 2  # the other answer; that it was taken is not read before the late one is
    async with run_memory_agent(bus, settings):
        await eventually(lambda: has_all(bus, {late.turn_id, other.turn_id}))


async def test_a_stream_that_is_half_full_loses_only_what_is_recorded(bus: Bus, settings: MemorySettings) -> None:
    await declare_consumers(bus, settings)
    first, second = turn(), turn()
    await bus.publish(answer_ready(first, unit(1)))
    await bus.publish(answer_ready(second, unit(1)))
    assert await expire(bus, age=3600.0, room=0) == 0
    async with run_memory_agent(bus, settings):
        await eventually(lambda: has_all(bus, {first.turn_id, second.turn_id}))
        await eventually(lambda: has_settled(bus))
    size = (await measure_stream(bus, ANSWERS)).bytes
    assert await expire(bus, age=3600.0) == 0  # young, and there is room
    assert await expire(bus, age=3600.0, room=size - 1) == 1  # the oldest
    assert (await measure_stream(bus, ANSWERS)).messages == 1


async def has_all(bus: Bus, turn_ids: set[str]) -> bool:
    return turn_ids <= await recorded_turns(bus)


async def test_nothing_is_removed_where_no_memory_has_run(bus: Bus) -> None:
    await bus.publish(answer_ready(turn(), unit(1)))
    assert await expire(bus, age=-1.0) == 0
