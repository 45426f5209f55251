"""Turns spread over worker processes by what each has in hand."""

import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import sharing
from bus.connection import Bus
from bus.topology import TURNS
from schemas.events import QueryReceived, TurnCancelled
from tests.bus.conftest import eventually, query
from tests.bus.shared_worker import STAGE

pytestmark = pytest.mark.anyio


@pytest.fixture
async def workers(bus: Bus, nats_url: str) -> AsyncIterator[None]:
    """Two processes; the first one's requests are at the broker before the second one's."""
    with ExitStack() as stack:
        for number, name in enumerate(("first", "second"), 1):
            stack.enter_context(_run_worker(nats_url, name))
            await eventually(partial(_has_waiting, bus, 64 * number))
        yield


@contextmanager
def _run_worker(url: str, name: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", "tests.bus.shared_worker", url, name])
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def _has_waiting(bus: Bus, count: int) -> bool:
    try:
        return int((await bus.js.consumer_info(TURNS, STAGE)).num_waiting or 0) >= count
    except Exception:
        return False


async def ask(bus: Bus, count: int) -> list[QueryReceived]:
    events = [query() for _ in range(count)]
    async with anyio.create_task_group() as tasks:
        for event in events:
            tasks.start_soon(bus.publish, event)
    return events


async def count_answers(bus: Bus, events: list[QueryReceived]) -> Counter[str]:
    names: Counter[str] = Counter()
    for event in events:
        answer = await eventually(partial(bus.last, TurnCancelled, event.envelope.turn_id))
        names[answer.reason] += 1
    return names


async def test_twelve_turns_at_once_are_six_for_each_of_two_workers(bus: Bus, workers: None) -> None:
    names = await count_answers(bus, await ask(bus, 12))
    assert sum(names.values()) == 12
    assert min(names["first"], names["second"]) >= 5, names


async def test_the_worker_with_less_in_hand_gets_the_next_turns(bus: Bus, workers: None) -> None:
    first_events = await ask(bus, 3)
    await anyio.sleep(0.3)
    later_events = await ask(bus, 1)
    names = await count_answers(bus, [*first_events, *later_events])
    assert names == {"first": 2, "second": 2}


async def test_a_consumer_keeps_its_settings_and_its_place(bus: Bus, workers: None) -> None:
    await count_answers(bus, await ask(bus, 2))
    before = await bus.js.consumer_info(TURNS, STAGE)
    await sharing.prioritize(bus.client, TURNS, STAGE)
    after = await bus.js.consumer_info(TURNS, STAGE)
    assert after.config == before.config
    assert after.delivered is not None
    assert before.delivered is not None
    assert after.delivered.stream_seq == before.delivered.stream_seq


@given(st.sets(st.integers(0, 63)))
def test_a_request_stands_for_the_next_message_in_hand(taken: set[int]) -> None:
    rank = sharing.find_rank(taken)
    assert rank not in taken
    assert all(lower in taken for lower in range(rank))


def test_priorities_are_the_brokers_ten_and_grow_with_the_rank() -> None:
    priorities = [sharing.priority_of(rank) for rank in range(64)]
    assert priorities == sorted(priorities)
    assert priorities[:5] == [0, 1, 2, 3, 4]
    assert set(priorities) == set(range(10))
