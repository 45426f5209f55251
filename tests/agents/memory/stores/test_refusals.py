"""A store's server that refuses is away: the projection waits, nobody gives an episode up, and the setting is named."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path

import anyio.to_thread
import neo4j
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from agents.memory.progress import PROJECTION
from agents.memory.settings import MemorySettings
from agents.memory.stores.qdrant import QdrantAtlas
from bus.connection import Bus
from bus.stream import measure_stream
from bus.topology import DEAD, EPISODES
from schemas.calls import STATUS
from schemas.events import EpisodeRecorded, RecallDone
from schemas.status import StatusReply
from tests.agents.memory.conftest import neo4j_settings
from tests.agents.memory.memories import eventually, run_memory_agent, wait_for_projection
from tests.agents.memory.pairs import use_local_qdrant
from tests.agents.memory.scenes import SIZE, answer_ready, query_routed, turn, unit
from tests.agents.memory.stores.qdrant_server import QdrantStandIn, serve_qdrant
from tests.neo4j_server import Neo4jServer

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
    pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning"),
]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.memory.projection.AWAY_SECONDS", 0.5)


@pytest.fixture
def qdrant() -> Iterator[QdrantStandIn]:
    with serve_qdrant() as stand_in:
        yield stand_in


@pytest.fixture
def settings(qdrant: QdrantStandIn, tmp_path: Path) -> MemorySettings:
    """Atlas on the stand-in."""
    return MemorySettings(
        data_dir=tmp_path / "memory",
        vector_size=SIZE,
        atlas="qdrant",
        qdrant_url=qdrant.url,
        qdrant_key="the key",
        status_interval=0.05,
        store_timeout=3.0,
    )


async def answer_turns(bus: Bus, seeds: range) -> None:
    """Answer turns of one session and wait for their records."""
    for seed in seeds:
        envelope = turn(session="served", key=f"served{seed}")
        await bus.publish(answer_ready(envelope, unit(seed), answer=f"answer {seed}"))
        await eventually(partial(bus.last, EpisodeRecorded, envelope.turn_id, stream=EPISODES))


async def read_status(bus: Bus) -> StatusReply:
    return await bus.request(STATUS.at("memory"), None, timeout=5.0)


async def wait_for_detail(bus: Bus, text: str) -> StatusReply:
    """Wait until the memory's status says this."""

    async def says_so() -> StatusReply | None:
        status = await read_status(bus)
        return status if (text in status.detail if text else not status.detail) else None

    status = await eventually(says_so)
    assert isinstance(status, StatusReply)
    return status


@asynccontextmanager
async def refused_meanwhile(bus: Bus, setting: str) -> AsyncIterator[None]:
    """What is answered in this context waits with its message in hand, and a turn goes on without recall."""
    with capture_logs() as logs:
        status = await wait_for_detail(bus, setting)
        assert status.ready
        yield
        routed = query_routed(turn(session="served"), unit(1))
        await bus.publish(routed)
        recalled = await eventually(partial(bus.last, RecallDone, routed.envelope.turn_id))
        assert recalled.recall.hits == ()
        await anyio.sleep(1.0)
    consumer = await bus.js.consumer_info(EPISODES, PROJECTION)
    assert (consumer.num_redelivered, consumer.num_ack_pending) == (0, 3)
    assert (await measure_stream(bus, DEAD)).messages == 0
    lines = [entry for entry in logs if entry["event"] == "store's server refused"]
    assert [entry["setting"] for entry in lines] == [setting]


ADMINISTRATOR = "administrator"

REFUSALS = [
    (HTTPStatus.UNAUTHORIZED, "Invalid API key", "agents.memory.qdrant_key"),
    (HTTPStatus.FORBIDDEN, "Global manage access is required", "agents.memory.qdrant_key"),
    (HTTPStatus.TOO_MANY_REQUESTS, "Rate limiting exceeded", "agents.memory.qdrant_url"),
    (HTTPStatus.INSUFFICIENT_STORAGE, "full", "agents.memory.qdrant_url"),
    (HTTPStatus.INTERNAL_SERVER_ERROR, "No space left on device: WAL buffer size", "agents.memory.qdrant_url"),
    (HTTPStatus.NOT_FOUND, "Collection `kiki-episodes` doesn't exist!", "agents.memory.qdrant_collection"),
]


@pytest.mark.parametrize(("status", "reason", "setting"), REFUSALS)
async def test_a_vector_server_that_refuses_is_waited_for(
    bus: Bus, qdrant: QdrantStandIn, settings: MemorySettings, status: HTTPStatus, reason: str, setting: str
) -> None:
    async with run_memory_agent(bus, settings):
        await answer_turns(bus, range(2))
        await wait_for_projection(bus, 2, 2)
        qdrant.status, qdrant.reason = status, reason
        async with refused_meanwhile(bus, setting):
            await answer_turns(bus, range(2, 5))
        qdrant.status = HTTPStatus.OK
        await wait_for_projection(bus, 5, 5)
        await wait_for_detail(bus, "")


async def test_a_collection_gets_the_indexes_it_lacks(qdrant: QdrantStandIn, settings: MemorySettings) -> None:
    atlas = QdrantAtlas.of(settings)
    await atlas.renew()
    indexes = set(qdrant.indexes)
    assert "owner" in indexes
    qdrant.indexes -= {"owner", "created_at"}
    assert await atlas.load()
    assert qdrant.indexes == indexes
    await atlas.close()


@pytest.fixture
def graph_server(neo4j_server: Neo4jServer) -> Neo4jServer:
    """The session's Neo4j with an empty database, where the tests may kill it."""
    if neo4j_server.home is None:
        pytest.skip("the Neo4j of NEO4J_URI is not ours to kill")
    neo4j_server.run("MATCH (n) DETACH DELETE n")
    return neo4j_server


def set_password(server: Neo4jServer, password: str) -> None:
    """Change the memory's password by another account: the memory's own is locked by its tries with a wrong one."""
    account = (ADMINISTRATOR, server.password)
    with neo4j.GraphDatabase.driver(server.uri, auth=account) as driver:
        query = f"ALTER USER {server.user} SET PASSWORD $password CHANGE NOT REQUIRED"
        driver.execute_query(query, {"password": password}, database_="system")


def take_other_password(server: Neo4jServer) -> None:
    server.run(
        f"CREATE USER {ADMINISTRATOR} IF NOT EXISTS SET PASSWORD '{server.password}' CHANGE NOT REQUIRED", "system"
    )
    set_password(server, "another-one")
    server.kill()
    server.start()


def take_old_password(server: Neo4jServer) -> None:
    set_password(server, server.password)


def refuse_writes(server: Neo4jServer) -> None:
    server.kill()
    server.start(read_only=True)


def take_writes(server: Neo4jServer) -> None:
    server.kill()
    server.start()


@pytest.mark.parametrize(
    ("refuse", "accept", "setting"),
    [
        (take_other_password, take_old_password, "agents.memory.neo4j_password"),
        (refuse_writes, take_writes, "agents.memory.neo4j_database"),
    ],
)
async def test_a_graph_server_that_refuses_is_waited_for(
    bus: Bus,
    graph_server: Neo4jServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refuse: Callable[[Neo4jServer], None],
    accept: Callable[[Neo4jServer], None],
    setting: str,
) -> None:
    on_servers = use_local_qdrant(neo4j_settings(tmp_path / "memory", graph_server), monkeypatch)
    async with run_memory_agent(bus, replace(on_servers, status_interval=0.05, store_timeout=3.0)):
        await answer_turns(bus, range(2))
        await wait_for_projection(bus, 2, 2)
        await anyio.to_thread.run_sync(refuse, graph_server)
        try:
            await answer_turns(bus, range(2, 5))
            await wait_for_detail(bus, setting)
            await anyio.sleep(2.0)
            consumer = await bus.js.consumer_info(EPISODES, PROJECTION)
            assert (consumer.num_redelivered, consumer.num_ack_pending) == (0, 3)
        finally:
            await anyio.to_thread.run_sync(accept, graph_server)
        await wait_for_projection(bus, 5, 5)
        await wait_for_detail(bus, "")
