"""The rebuild bench on real stores; the figures are not judged."""

import pytest

from runtime.bench.memory import rebuild
from tests.neo4j_server import Neo4jServer

pytestmark = pytest.mark.anyio


async def test_the_stores_are_made_again_on_each_graph_by_turns(neo4j_server: Neo4jServer) -> None:
    ticks: list[int] = []
    on_neo4j = {
        "trace": "neo4j",
        "neo4j_uri": neo4j_server.uri,
        "neo4j_user": neo4j_server.user,
        "neo4j_password": neo4j_server.password,
        "neo4j_database": neo4j_server.database,
    }
    times = await rebuild.measure(
        {"ladybug": {}, "neo4j": on_neo4j}, episodes=50, rounds=2, tick=lambda more=1: ticks.append(more)
    )
    assert {name: len(seconds) for name, seconds in times.seconds.items()} == {"ladybug": 2, "neo4j": 2}
    assert min(times.medians.values()) > 0.0
    assert sum(ticks) == 4
