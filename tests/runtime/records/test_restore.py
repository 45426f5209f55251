"""A replayed dialogue rebuilds the same memory in an empty runtime."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from agents.memory.settings import MemorySettings
from agents.services.replay import encode_line, read_selection
from bus import broker
from bus.connection import Bus, BusSettings, connect
from bus.topology import EPISODES
from runtime.records import restore
from schemas.calls import MEMORY_FORGET, MEMORY_SEARCH, MEMORY_SESSION, MEMORY_VERIFY
from schemas.errors import InvalidInput
from schemas.events import EpisodeRecorded
from schemas.memory import (
    ForgetRequest,
    SearchReply,
    SearchRequest,
    SessionReply,
    SessionRequest,
    VerifyReply,
    VerifyRequest,
)
from schemas.services import Selection
from tests.agents.memory.memories import eventually, run_memory_agent, wait_for_projection
from tests.agents.memory.scenes import SIZE, USER, answer_ready, turn, unit

pytestmark = pytest.mark.anyio

TURNS = 14
QUESTIONS = [f"In turn {number} we spoke of the {word}." for number, word in enumerate("abcdefghijklmn")]


@pytest.fixture
async def empty(tmp_path: Path) -> AsyncIterator[Bus]:
    """The bus of another runtime, where nothing has happened."""
    async with (
        broker.run_broker(tmp_path / "other", port=0) as other,
        connect(BusSettings(url=other.url, prefix="elsewhere"), name="other") as bus,
    ):
        await bus.reconcile()
        yield bus


async def hold_dialogue(bus: Bus) -> None:
    """A dialogue of fourteen turns, and a second session that is forgotten again."""
    for number in range(TURNS):
        event = answer_ready(turn(key=f"t{number}"), unit(number), text=QUESTIONS[number], answer=f"Yes, {number}.")
        turn_id = event.envelope.turn_id
        await bus.publish(event)
        await eventually(partial(bus.last, EpisodeRecorded, turn_id, stream=EPISODES))
    await bus.publish(answer_ready(turn(key="secret", session="private"), unit(99), text="a secret"))
    await wait_for_projection(bus, TURNS + 1, TURNS + 1)
    request = ForgetRequest(user=USER, tenant="ann", session_id="private")
    assert (await bus.request(MEMORY_FORGET, request, timeout=10)).episodes == 1


async def read_memory(bus: Bus) -> tuple[SessionReply, list[SearchReply], VerifyReply]:
    """Everything that a memory can be asked: its session, what each question finds, and whether its stores agree."""
    session = await bus.request(MEMORY_SESSION, SessionRequest(user=USER, tenant="ann", session_id="s1"), timeout=10)
    searches = [
        await bus.request(
            MEMORY_SEARCH,
            SearchRequest(user=USER, tenant="ann", vector=unit(number), text=QUESTIONS[number], limit=20, as_of=2e9),
            timeout=10,
        )
        for number in range(TURNS)
    ]
    return session, searches, await bus.request(MEMORY_VERIFY, VerifyRequest(), timeout=10)


async def test_a_dialogue_replayed_into_an_empty_runtime_is_the_same_memory(
    bus: Bus, empty: Bus, tmp_path: Path
) -> None:
    settings = MemorySettings(data_dir=tmp_path / "one", vector_size=SIZE, status_interval=0.05)
    async with run_memory_agent(bus, settings):
        await hold_dialogue(bus)
        there = await read_memory(bus)
        lines = [encode_line(message).decode() async for message in read_selection(bus, Selection(tenant="ann"))]
    again = MemorySettings(data_dir=tmp_path / "two", vector_size=SIZE, status_interval=0.05)
    async with run_memory_agent(empty, again):
        messages = [message async for message in restore.parse_lines(empty, lines, source="dialogue.jsonl")]
        assert [await restore.restore(empty, message) for message in messages] == [True] * (TURNS + 1)
        await wait_for_projection(empty, TURNS, TURNS)
        here = await read_memory(empty)
        assert [await restore.restore(empty, message) for message in messages] == [False] * (TURNS + 1)
    assert here == there
    assert len(here[0].episodes) == TURNS
    assert here[2].agrees


@pytest.mark.parametrize(
    ("text", "param"),
    [
        ("{", "line"),
        ('{"seq": 1}', "stored_at"),
        ('{"seq": 1, "stored_at": 1.0, "subject": "query.received", "event": {}}', "subject"),
        ('{"seq": 1, "stored_at": 1.0, "subject": "episode.recorded", "event": {}}', "event.envelope"),
    ],
)
async def test_a_line_that_is_no_event_is_named(bus: Bus, text: str, param: str) -> None:
    with pytest.raises(InvalidInput, match=r"d\.jsonl, line 2") as error:
        await anext(restore.parse_lines(bus, ["", text], source="d.jsonl"))
    assert error.value.param == param
