"""One contract for the graph, over Ladybug and a real Neo4j."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from msgspec.structs import replace

from agents.memory.episodes import store_key
from agents.memory.settings import MemorySettings
from agents.memory.stores.errors import BrokenStore
from agents.memory.stores.ladybug import FILE, Database, LadybugGraph
from agents.memory.stores.neo4j import Neo4jGraph
from agents.memory.stores.protocols import Graph, Run
from agents.memory.stores.trace import Neighbours, Trace, link_changes
from schemas.episode import Episode
from schemas.errors import SetupError, Unavailable
from tests.agents.memory.conftest import neo4j_settings
from tests.agents.memory.scenes import USER, episode
from tests.neo4j_server import Neo4jServer

pytestmark = pytest.mark.anyio

_fresh = itertools.count()


@pytest.fixture(scope="module", params=["ladybug", "neo4j"])
async def graph(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Graph]:
    """One graph for all tests of the module; each uses sessions of its own."""
    path = tmp_path_factory.mktemp("trace")
    store: Graph
    if request.param == "ladybug":
        store = LadybugGraph(MemorySettings(data_dir=path))
    else:
        store = Neo4jGraph(neo4j_settings(path, request.getfixturevalue("neo4j_server")))
    await store.load()
    await store.renew()
    yield store
    await store.renew()
    await store.close()


@pytest.fixture
def trace(graph: Graph) -> Trace:
    """Trace over it."""
    return Trace(graph)


async def walk(trace: Trace, episodes: list[Episode]) -> list[str]:
    """The session's turns along NEXT, from the one that has no predecessor; both directions must agree."""
    turns = {entry.episode_id: entry.turn_id for entry in episodes}
    around = {entry.episode_id: await trace.neighbours(entry.episode_id, tenant=entry.tenant) for entry in episodes}
    starts = [name for name, near in around.items() if near.previous is None]
    assert len(starts) == 1
    path = [starts[0]]
    while (following := around[path[-1]].following) is not None:
        assert around[following].previous == path[-1]
        path.append(following)
    return [turns[name] for name in path]


@examples(max_examples=10, suppress_health_check=list(HealthCheck))
@given(st.permutations(range(6)), st.lists(st.integers(0, 5), max_size=4))
async def test_next_follows_time_however_episodes_arrive(trace: Trace, order: list[int], again: list[int]) -> None:
    prefix = next(_fresh)
    episodes = [episode(f"{prefix}-{n}", session=f"order{prefix}", at=1000.0 + n // 2) for n in range(6)]
    for n in (*order, *again):
        await trace.upsert([episodes[n]])
    path = await walk(trace, episodes)
    assert sorted(path) == [entry.turn_id for entry in episodes]
    assert [int(name.split("-")[1]) // 2 for name in path] == [0, 0, 1, 1, 2, 2]


async def test_a_batch_is_stored_like_its_parts(trace: Trace) -> None:
    episodes = [episode(f"b{n}", session="batch", at=float(n)) for n in range(5)]
    before = await trace.count()
    (order,) = await trace.upsert(episodes[::-1])
    assert await trace.upsert(episodes) == [order]
    assert await trace.count() == before + 5
    assert await walk(trace, episodes) == [f"b{n}" for n in range(5)]


async def test_sessions_that_two_tenants_name_alike_do_not_touch(trace: Trace) -> None:
    mine = [episode(f"m{n}", tenant="ann", session="alike", at=float(n)) for n in (0, 2)]
    theirs = [episode(f"o{n}", tenant="bob", session="alike", at=float(n)) for n in (1, 3)]
    await trace.upsert([mine[0], theirs[0], mine[1], theirs[1]])
    assert await walk(trace, mine) == ["m0", "m2"]
    assert await walk(trace, theirs) == ["o1", "o3"]
    assert await trace.neighbours(mine[0].episode_id, tenant="bob") == Neighbours()
    assert await trace.keys(tenant="bob") & await trace.keys(tenant="ann") == set()
    assert len(await trace.keys()) == await trace.count()


async def test_a_batch_that_fails_leaves_nothing(graph: Graph, trace: Trace) -> None:
    before = await trace.count()

    async def write_half(run: Run) -> None:
        await run("MERGE (e:Episode {id: 'half'}) SET e.episode_id = 'half'")
        await run("MATCH nonsense")

    with pytest.raises(Unavailable):
        await graph.write(write_half)
    assert await trace.count() == before
    await trace.upsert([episode("good", session="half")])
    assert await trace.count() == before + 1


async def test_concepts_are_the_tenants_own_and_go_with_their_last_mention(graph: Graph, trace: Trace) -> None:
    def about(turn: str, tenant: str, *concepts: str) -> Episode:
        return replace(episode(turn, tenant=tenant, session=f"about-{turn}"), concepts=concepts)

    mine, also, theirs = about("c1", "ann", "lisbon", "cat"), about("c2", "ann", "lisbon"), about("c3", "bob", "lisbon")
    await trace.upsert([mine, also, theirs])
    await trace.upsert([mine])
    assert await trace.concepts(mine.episode_id, tenant="ann") == ["cat", "lisbon"]
    assert await trace.concepts(mine.episode_id, tenant="bob") == []
    await trace.remove_session("about-c1", tenant="ann", user=USER)
    assert await trace.concepts(mine.episode_id, tenant="ann") == []
    assert await trace.concepts(also.episode_id, tenant="ann") == ["lisbon"]
    assert await trace.concepts(theirs.episode_id, tenant="bob") == ["lisbon"]
    names = [row[0] for row in await graph.read("MATCH (c:Concept) RETURN c.name ORDER BY c.name")]
    assert names == ["lisbon", "lisbon"]


async def test_an_episode_in_the_prompt_caused_the_answer_whichever_comes_first(trace: Trace) -> None:
    first, second = episode("p1", tenant="cause", at=1.0), episode("p2", tenant="cause", at=2.0)
    answer = replace(episode("p3", tenant="cause", at=3.0), recalled_ids=(first.episode_id, second.episode_id))
    for entry in (answer, second, first, answer):
        await trace.upsert([entry])
        assert await trace.count() == len(await trace.keys())
    edges = (await trace.edges(tenant="cause"))["CAUSED"]
    assert edges == sorted([(first.episode_id, answer.episode_id), (second.episode_id, answer.episode_id)])
    assert await trace.keys(tenant="cause") != set()
    assert [entry.turn_id for entry in await trace.turns("s1", tenant="cause", user=USER)] == ["p1", "p2", "p3"]


async def test_a_replaced_episode_is_known_on_both_axes_of_time(trace: Trace) -> None:
    first, second, third = (episode(f"v{n}", tenant="times", at=100.0 * n) for n in (1, 2, 3))
    learnt = {first.episode_id: 1000.0, second.episode_id: 3000.0, third.episode_id: 2000.0}
    await trace.upsert([first, second, third], recorded_at=learnt)
    names = [store_key("times", "episode", entry.episode_id) for entry in (first, second, third)]
    for _ in range(2):
        await trace.supersede([(names[1], names[0]), (names[2], names[0]), (names[2], names[1])])

    async def find_replaced(**when: float) -> dict[str, str]:
        ids = dict(zip(names, learnt, strict=True))
        return {ids[older]: ids[newer] for older, newer in (await trace.find_superseded(names, **when)).items()}

    assert await find_replaced() == {first.episode_id: third.episode_id, second.episode_id: third.episode_id}
    assert await find_replaced(as_of=150.0) == {}
    assert await find_replaced(as_of=250.0) == {first.episode_id: second.episode_id}
    assert await find_replaced(known=2500.0) == {first.episode_id: third.episode_id}
    assert await find_replaced(as_of=250.0, known=2500.0) == {}
    assert await trace.find_superseded([store_key("bob", "episode", name) for name in learnt]) == {}
    assert len((await trace.edges(tenant="times"))["SUPERSEDES"]) == 3


async def test_a_summary_stands_for_its_parts_whichever_comes_first(trace: Trace) -> None:
    parts = [episode(f"part{n}", tenant="sum", session=f"of{n}", at=float(n)) for n in range(3)]
    whole = replace(
        episode("whole", tenant="sum", session="told"), summarises=tuple(entry.episode_id for entry in parts)
    )
    names = [store_key("sum", "episode", entry.episode_id) for entry in parts]
    for entry in (parts[1], whole, parts[0], parts[2], whole):
        await trace.upsert([entry])
    summary = (whole.episode_id, store_key("sum", "episode", whole.episode_id))
    assert await trace.summaries(names) == {summary: sorted(names)}
    assert await trace.summaries(names[:1]) == {summary: names[:1]}
    assert await trace.summaries_of("of1", tenant="sum", user=USER) == ["told"]
    assert await trace.summaries_of("of1", tenant="bob", user=USER) == []


async def test_an_empty_graph_forgets_everything(graph: Graph, trace: Trace) -> None:
    await trace.upsert([episode("gone")])
    await graph.renew()
    assert await trace.count() == 0
    assert await graph.load()


def test_new_episodes_part_their_neighbours() -> None:
    apart, together = link_changes([["a", "x", "b", "c", "y"], ["z"]], {"x", "y", "z"})
    assert apart == [{"left": "a", "right": "b"}]
    assert [tuple(pair.values()) for pair in together] == [("a", "x"), ("c", "y"), ("x", "b")]


@pytest.mark.parametrize("content", [b"\xff" * 8192, b"x"])
def test_damaged_files_are_a_broken_store(tmp_path: Path, content: bytes) -> None:
    Database.create(tmp_path, buffer=2**26).close()
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(BrokenStore, match="trace"):
        Database.open(tmp_path, buffer=2**26)


async def test_a_graph_of_another_version_is_made_again(graph: Graph) -> None:
    await graph.read("MATCH (t:Trace) SET t.version = 1")
    await graph.close()
    assert not await graph.load()
    await graph.renew()
    await graph.close()
    assert await graph.load()


@pytest.mark.parametrize(
    ("change", "field", "why"),
    [
        ({"neo4j_uri": "bolt://127.0.0.1:9"}, "neo4j_uri", "no server answers"),
        ({"neo4j_uri": "nonsense"}, "neo4j_uri", "no Bolt address"),
        ({"neo4j_password": "wrong"}, "neo4j_password", "refuses user"),
        ({"neo4j_database": "absent"}, "neo4j_database", "cannot be used"),
    ],
)
async def test_a_server_that_cannot_be_used_is_one_line(
    tmp_path: Path, neo4j_server: Neo4jServer, change: dict[str, str], field: str, why: str
) -> None:
    await expect_setting_error(replace(neo4j_settings(tmp_path, neo4j_server), **change), field, why)


async def test_an_account_that_the_server_wants_mended_is_one_line(tmp_path: Path, neo4j_server: Neo4jServer) -> None:
    neo4j_server.run("CREATE USER fresh IF NOT EXISTS SET PASSWORD 'first-password' CHANGE REQUIRED", "system")
    first = replace(neo4j_settings(tmp_path, neo4j_server), neo4j_user="fresh", neo4j_password="first-password")
    await expect_setting_error(first, "neo4j_password", "refuses user 'fresh'.*changed")
    for why in ("wrong", "wrong", "wrong", "AuthenticationRateLimit"):
        await expect_setting_error(replace(first, neo4j_password="wrong"), "neo4j_password", f"user 'fresh'.*{why}")


async def expect_setting_error(settings: MemorySettings, field: str, why: str) -> None:
    store = Neo4jGraph(replace(settings, store_timeout=1.0))
    with pytest.raises(SetupError, match=why) as error:
        await store.load()
    assert error.value.param == f"agents.memory.{field}"
    assert "\n" not in error.value.message
    await store.close()


async def test_a_database_of_strangers_is_left_alone(tmp_path: Path, neo4j_server: Neo4jServer) -> None:
    neo4j_server.run("MATCH (n) DETACH DELETE n")
    neo4j_server.run("CREATE (:Episode {title: 'Pilot'})")
    graph = Neo4jGraph(neo4j_settings(tmp_path, neo4j_server))
    try:
        with pytest.raises(SetupError, match="did not make"):
            await graph.load()
    finally:
        await graph.close()
        neo4j_server.run("MATCH (n) DETACH DELETE n")
