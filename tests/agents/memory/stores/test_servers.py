"""The memory on servers: a Neo4j that is killed under writes, that comes back, and that loses its data."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from msgspec.structs import replace

from agents.memory.settings import MemorySettings
from bus import metrics
from bus.connection import Bus
from bus.topology import EPISODES
from schemas.calls import MEMORY_REBUILD, MEMORY_STATS, MEMORY_VERIFY, STATUS
from schemas.events import EpisodeRecorded
from schemas.memory import (
    RebuildRequest,
    StatsRequest,
    VerifyReply,
    VerifyRequest,
)
from tests.agents.memory.conftest import neo4j_settings
from tests.agents.memory.memories import eventually, run_memory_agent, wait_for_projection
from tests.agents.memory.pairs import use_local_qdrant
from tests.agents.memory.scenes import answer_ready, turn, unit
from tests.neo4j_server import Neo4jServer

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.memory.projection.AWAY_SECONDS", 0.5)


@pytest.fixture
def server(neo4j_server: Neo4jServer) -> Neo4jServer:
    """The session's Neo4j with an empty database, where the tests may kill it."""
    if neo4j_server.home is None:
        pytest.skip("the Neo4j of NEO4J_URI is not ours to kill")
    neo4j_server.run("MATCH (n) DETACH DELETE n")
    return neo4j_server


@pytest.fixture
def settings(server: Neo4jServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemorySettings:
    """A memory on it."""
    on_servers = use_local_qdrant(neo4j_settings(tmp_path / "memory", server), monkeypatch)
    return replace(on_servers, status_interval=0.05, store_timeout=3.0)


@asynccontextmanager
async def killed(server: Neo4jServer) -> AsyncIterator[None]:
    """The server is away for as long as the context lasts."""
    server.kill()
    try:
        yield
    finally:
        await anyio.to_thread.run_sync(server.start)


async def answer_turns(bus: Bus, seeds: Sequence[int]) -> None:
    """Answer turns of one session, one after the other, and wait for the record of each."""
    for seed in seeds:
        envelope = turn(session="served", key=f"served{seed}")
        await bus.publish(answer_ready(envelope, unit(seed), answer=f"answer {seed}"))
        await eventually(partial(bus.last, EpisodeRecorded, envelope.turn_id, stream=EPISODES))


async def verify(bus: Bus) -> VerifyReply:
    return await bus.request(MEMORY_VERIFY, VerifyRequest(), timeout=30.0)


async def read_edges(bus: Bus) -> dict[str, int]:
    """Edges of each kind between the episodes."""
    return (await bus.request(MEMORY_STATS, StatsRequest(tenant="ann"), timeout=30.0)).edges


async def test_a_server_killed_under_writes_costs_no_episode(
    bus: Bus, server: Neo4jServer, settings: MemorySettings
) -> None:
    away = metrics.DEGRADED.labels("projection.away")
    before = away._value.get()

    async def away_is_counted() -> bool:
        return bool(away._value.get() > before)

    async with run_memory_agent(bus, settings):
        async with anyio.create_task_group() as tasks:
            for writer in range(4):
                tasks.start_soon(answer_turns, bus, range(writer, 60, 4))

            async def projection_has_begun() -> bool:
                return (await bus.request(STATUS.at("memory"), None, timeout=5.0)).gauges["trace_episodes"] > 0

            await eventually(projection_has_begun)
            async with killed(server):
                await eventually(away_is_counted)
        await wait_for_projection(bus, 60, 60)
        assert (await verify(bus)).agrees
        assert (await read_edges(bus))["NEXT"] == 59
        await answer_turns(bus, [60])
        await wait_for_projection(bus, 61, 61)


async def test_lost_data_is_found_by_verify_and_mended_by_rebuild(
    bus: Bus, server: Neo4jServer, settings: MemorySettings
) -> None:
    async with run_memory_agent(bus, settings):
        await answer_turns(bus, range(5))
        await wait_for_projection(bus, 5, 5)
        edges = await read_edges(bus)

        await anyio.to_thread.run_sync(server.lose_data)
        await answer_turns(bus, [5])
        await wait_for_projection(bus, 6, 1)
        verification = await verify(bus)
        assert (verification.agrees, verification.missing_in_atlas) == (False, ())
        assert len(verification.missing_in_trace) == 5

        reply = await bus.request(MEMORY_REBUILD, RebuildRequest(), timeout=60.0)
        assert reply.episodes == 6
        assert (await verify(bus)).agrees
        assert await read_edges(bus) == edges | {"NEXT": 5}

        server.run("MATCH (n) DETACH DELETE n")  # as if the server had come back empty
        await answer_turns(bus, [6])
        await wait_for_projection(bus, 7, 1)
    async with run_memory_agent(bus, settings):  # a restart mends it, too
        await wait_for_projection(bus, 7, 7)
        assert (await verify(bus)).agrees
