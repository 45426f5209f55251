"""Verifying compares texts, vectors and edges, and says what the record itself has lost."""

import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import qdrant_edge as qdrant
from msgspec.structs import replace

from agents.memory.agent import MemoryAgent
from agents.memory.episodes import store_key
from agents.memory.settings import MemorySettings
from agents.memory.stores.points import Atlas
from agents.memory.stores.stored import CONTEXT, OWN, WORDS
from agents.memory.verification import Gaps
from bus.broker import run_broker
from bus.connection import Bus, BusSettings, connect
from bus.topology import EPISODES
from schemas.calls import MEMORY_FORGET, MEMORY_REBUILD, MEMORY_VERIFY
from schemas.envelope import new_turn
from schemas.episode import Episode
from schemas.events import EpisodeForgotten, EpisodeRecorded
from schemas.memory import (
    ForgetRequest,
    RebuildRequest,
    VerifyReply,
    VerifyRequest,
)
from tests.agents.memory.memories import run_memory_agent, wait_for_projection
from tests.agents.memory.scenes import SIZE, USER, episode, turn, unit
from tests.agents.memory.stores.optimiser import shard

pytestmark = pytest.mark.anyio

COUNT = 12


@pytest.fixture
def settings(tmp_path: Path) -> MemorySettings:
    """A memory of its own."""
    return MemorySettings(data_dir=tmp_path / "memory", vector_size=SIZE, lock_timeout=0.1, status_interval=0.05)


def stored(number: int) -> Episode:
    """One of two sessions' episodes, which mention concepts and were caused by the one two before."""
    before = (stored_id(number - 2),) if number > 1 else ()
    entry = episode(f"t{number}", session=f"s{number % 2}", at=1000.0 + number, vector=unit(number))
    return replace(entry, concepts=("cat", f"thing{number}"), recalled_ids=before)


def stored_id(number: int) -> str:
    return episode(f"t{number}").episode_id


def key(number: int) -> str:
    return store_key("ann", "episode", stored_id(number))


async def record_episode(bus: Bus, entry: Episode) -> None:
    envelope = turn(session=entry.session_id, key=entry.turn_id)
    envelope = replace(envelope, turn_id=entry.turn_id, event_id=f"{entry.turn_id}:memory-write")
    await bus.publish(EpisodeRecorded(envelope=envelope, episode=entry))


@pytest.fixture
async def agent(bus: Bus, settings: MemorySettings) -> AsyncIterator[MemoryAgent]:
    """A memory that has projected all of the record."""
    for number in range(COUNT):
        await record_episode(bus, stored(number))
    async with run_memory_agent(bus, settings) as memory:
        await wait_for_projection(bus, COUNT, COUNT)
        yield memory


async def verify(bus: Bus, **whose: str) -> VerifyReply:
    return await bus.request(MEMORY_VERIFY, VerifyRequest(**whose), timeout=30.0)


async def change_atlas(agent: MemoryAgent, change: Callable[[Atlas], None]) -> None:
    await shard(agent._stores).run(change)


def set_payload(numbers: range, **fields: Any) -> Callable[[Atlas], None]:
    where = qdrant.Filter(must=[qdrant.HasIdCondition({key(number) for number in numbers})])
    return lambda atlas: atlas._shard.update(qdrant.UpdateOperation.set_payload_by_filter(where, fields))


def set_vectors(numbers: range, vectors: dict[str, Any]) -> Callable[[Atlas], None]:
    points = [qdrant.PointVectors(key(number), vectors) for number in numbers]
    return lambda atlas: atlas._shard.update(qdrant.UpdateOperation.update_vectors(points))


def flip_bit(number: int) -> Callable[[Atlas], None]:
    """One bit of one number of the searched vector."""

    def change(atlas: Atlas) -> None:
        vector = list(atlas.contents([key(number)])[key(number)].context or ())
        vector[3] *= 1 + 2.0**-15
        set_vectors(range(number, number + 1), {CONTEXT: vector})(atlas)

    return change


ALL, ONE = range(COUNT), range(5, 6)
DAMAGE = [
    ("texts", set_payload(ALL, question="", answer=""), ALL, {"question", "answer"}),
    ("own vectors", set_payload(ALL, **{OWN: None}), ALL, {OWN}),
    ("searched vectors", set_vectors(ALL, {CONTEXT: [0.0] * SIZE}), ALL, {"vectors"}),
    ("words", set_vectors(ONE, {WORDS: qdrant.SparseVector([7], [1.0])}), ONE, {"vectors"}),
    ("one letter", set_payload(ONE, answer="yeS"), ONE, {"answer"}),
    ("the owner", set_payload(ONE, owner="somebody"), ONE, {"owner"}),
    ("the time", set_payload(ONE, created_at=1005.0000001), ONE, {"created_at"}),
    ("one bit", flip_bit(5), ONE, {"vectors"}),
]


@pytest.mark.parametrize(("change", "numbers", "fields"), [entry[1:] for entry in DAMAGE], ids=[e[0] for e in DAMAGE])
async def test_atlas_that_holds_something_else_is_found_and_mended(
    bus: Bus, agent: MemoryAgent, change: Callable[[Atlas], None], numbers: range, fields: set[str]
) -> None:
    assert (await verify(bus)).agrees
    await change_atlas(agent, change)
    reply = await verify(bus)
    assert not reply.agrees
    assert reply.different == len(numbers)
    assert {entry.episode_id for entry in reply.differences} == {stored_id(number) for number in numbers}
    assert {(entry.store, frozenset(entry.fields)) for entry in reply.differences} == {("atlas", frozenset(fields))}
    assert (await verify(bus, tenant="bob")).agrees
    await bus.request(MEMORY_REBUILD, RebuildRequest(), timeout=60.0)
    assert (await verify(bus)).agrees


GRAPH_DAMAGE = [
    ("MATCH (e:Episode {id: $key}) SET e.turn_id = 'other'", {"turn_id"}),
    ("MATCH (e:Episode {id: $key}) SET e.recorded_at = 5.0", {"recorded_at"}),
    ("MATCH (:Session)-[c:CONTAINS]->(:Episode {id: $key}) DELETE c", {"unreadable"}),
    ("MATCH (:Episode {id: $key})-[n:NEXT]->() DELETE n", {"next"}),
    ("MATCH (:Episode {id: $key})-[m:MENTIONS]->() DELETE m", {"concepts"}),
    ("MATCH ()-[c:CAUSED]->(:Episode {id: $key}) DELETE c", {"causes"}),
]


@pytest.mark.parametrize(("statement", "fields"), GRAPH_DAMAGE)
async def test_trace_that_holds_something_else_is_found(
    bus: Bus, agent: MemoryAgent, statement: str, fields: set[str]
) -> None:
    await agent._stores._graph.read(statement, key=key(5))
    reply = await verify(bus)
    assert [(e.store, e.episode_id, {*e.fields}) for e in reply.differences] == [("trace", stored_id(5), fields)]


async def test_forgetting_leaves_nothing_to_find(bus: Bus, agent: MemoryAgent) -> None:
    request = ForgetRequest(tenant="ann", user=USER, session_id="s0")
    assert (await bus.request(MEMORY_FORGET, request, timeout=30.0)).episodes == COUNT // 2
    reply = await verify(bus)
    assert (reply.agrees, reply.recorded, reply.lost, reply.unrecorded) == (True, COUNT // 2, (), ())


async def test_an_episode_that_only_the_stores_hold_is_named(bus: Bus, agent: MemoryAgent) -> None:
    await bus.js.delete_msg(EPISODES, 4)
    reply = await verify(bus)
    assert (reply.lost, reply.unrecorded) == (((4, 4),), (stored_id(3),))
    assert not reply.agrees


async def test_a_record_that_lost_its_end_is_projected_on(tmp_path: Path, settings: MemorySettings) -> None:
    """The broker gives the lost sequences out again: a consumer that is beyond them would pass over new episodes."""
    async with run_broker(tmp_path / "nats", port=0) as broker, connect(BusSettings(url=broker.url), name="t") as bus:
        await bus.reconcile()
        for number in range(8):
            await record_episode(bus, stored(number))
        async with run_memory_agent(bus, settings):
            await wait_for_projection(bus, 8, 8)
    block = next((tmp_path / "nats").glob(f"jetstream/**/{EPISODES}/msgs/1.blk"))
    damage_record_head(block, 5)
    async with run_broker(tmp_path / "nats", port=0) as broker, connect(BusSettings(url=broker.url), name="t") as bus:
        await bus.reconcile()
        await record_episode(bus, stored(8))
        async with run_memory_agent(bus, settings):
            await wait_for_projection(bus, 9, 9)
            reply = await verify(bus)
            assert reply.unrecorded == tuple(sorted(stored_id(number) for number in range(5, 8)))
            assert (reply.recorded, reply.missing_in_atlas, reply.missing_in_trace) == (6, (), ())


def record_starts(block: bytes) -> list[int]:
    """Where each message of a block begins."""
    starts, at = [], 0
    while at < len(block):
        starts.append(at)
        at += int.from_bytes(block[at : at + 4], "little") & 0x7FFFFFFF
    return starts


def damage_record_head(block: Path, number: int) -> None:
    content = bytearray(block.read_bytes())
    content[record_starts(bytes(content))[number] + 3] ^= 0x10
    block.write_bytes(content)


def flip_text(block: Path) -> None:
    content = bytearray(block.read_bytes())
    content[record_starts(bytes(content))[2] + 300] ^= 0x10
    block.write_bytes(content)


def cut_half(block: Path) -> None:
    content = block.read_bytes()
    block.write_bytes(content[: record_starts(content)[5] + 200])


@pytest.mark.parametrize(("damage", "lost"), [(flip_text, ((3, 3),)), (cut_half, ((6, 8),))])
async def test_a_damaged_message_is_named_and_waited_for_by_nobody(
    tmp_path: Path, settings: MemorySettings, damage: Callable[[Path], None], lost: tuple[tuple[int, int], ...]
) -> None:
    """The broker says nothing of a damaged message: it passes over it."""
    async with run_broker(tmp_path / "nats", port=0) as broker, connect(BusSettings(url=broker.url), name="t") as bus:
        await bus.reconcile()
        for number in range(8):
            await record_episode(bus, stored(number))
        async with run_memory_agent(bus, settings):
            await wait_for_projection(bus, 8, 8)
    damage(next((tmp_path / "nats").glob(f"jetstream/**/{EPISODES}/msgs/1.blk")))
    async with run_broker(tmp_path / "nats", port=0) as broker, connect(BusSettings(url=broker.url), name="t") as bus:
        await bus.reconcile()
        async with run_memory_agent(bus, settings):
            started = time.monotonic()
            reply = await verify(bus)
            assert time.monotonic() - started < 20
            assert reply.lost == lost
            assert reply.unrecorded == tuple(
                sorted(stored_id(seq - 1) for first, last in lost for seq in range(first, last + 1))
            )


def test_gaps_are_what_was_neither_read_nor_erased() -> None:
    for seed in range(200):
        generator = random.Random(seed)
        first, last = generator.randint(1, 5), generator.randint(5, 40)
        kinds = {seq: generator.choice(["read", "erased", "lost"]) for seq in range(first, last + 1)}
        gaps = Gaps(first)
        for seq, kind in kinds.items():
            if kind == "read":
                gaps.pass_over(seq)
            elif kind == "erased":
                gaps.explain(tombstone(f"t{seq}", seq))
        found = {seq for start, end in gaps.find_unexplained(last) for seq in range(start, end + 1)}
        assert found == {seq for seq, kind in kinds.items() if kind == "lost"}


def tombstone(name: str, *erased: int) -> EpisodeForgotten:
    envelope = replace(new_turn(tenant="ann", user=USER, session_id="s", timeout=1.0), turn_id=name)
    return EpisodeForgotten(envelope=envelope, episode_id=name, erased=erased)


def test_a_tombstone_without_sequences_stands_for_one() -> None:
    gaps = Gaps(1)
    gaps.pass_over(3)
    gaps.explain(tombstone("old"))
    assert gaps.find_unexplained(3) == [(1, 2)]
    gaps = Gaps(1)
    gaps.pass_over(2)
    gaps.explain(tombstone("old"))
    assert gaps.find_unexplained(2) == []
