"""Episodes in a real Ladybug graph."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.memory.faults import BrokenStore
from agents.memory.trace import FILE, Neighbours, Trace
from schemas.episode import Episode
from schemas.errors import Unavailable
from tests.agents.memory.scenes import episode

BUFFER = 64 * 1024**2
_fresh = itertools.count()


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trace]:
    """One graph for all tests of the module; each uses sessions of its own."""
    opened = Trace.open(tmp_path_factory.mktemp("trace"), buffer=BUFFER)
    yield opened
    opened.close()


def walk(trace: Trace, episodes: list[Episode]) -> list[str]:
    """The session's turns along NEXT, from the one that has no predecessor; both directions must agree."""
    turns = {one.episode_id: one.turn_id for one in episodes}
    around = {one.episode_id: trace.neighbours(one.episode_id, tenant=one.tenant) for one in episodes}
    starts = [name for name, near in around.items() if near.previous is None]
    assert len(starts) == 1
    path = [starts[0]]
    while (following := around[path[-1]].following) is not None:
        assert around[following].previous == path[-1]
        path.append(following)
    return [turns[name] for name in path]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.permutations(range(6)), st.lists(st.integers(0, 5), max_size=4))
def test_next_follows_time_however_episodes_arrive(trace: Trace, order: list[int], again: list[int]) -> None:
    run = next(_fresh)
    told = [episode(f"{run}-{n}", session=f"order{run}", at=1000.0 + n // 2) for n in range(6)]
    for n in (*order, *again):
        trace.upsert([told[n]])
    path = walk(trace, told)
    assert sorted(path) == [one.turn_id for one in told]
    assert [int(name.split("-")[1]) // 2 for name in path] == [0, 0, 1, 1, 2, 2]


def test_a_batch_is_stored_like_its_parts(trace: Trace) -> None:
    told = [episode(f"b{n}", session="batch", at=float(n)) for n in range(5)]
    before = trace.count()
    trace.upsert(told[::-1])
    trace.upsert(told)
    assert trace.count() == before + 5
    assert walk(trace, told) == [f"b{n}" for n in range(5)]


def test_sessions_that_two_tenants_name_alike_do_not_touch(trace: Trace) -> None:
    mine = [episode(f"m{n}", tenant="ann", session="alike", at=float(n)) for n in (0, 2)]
    theirs = [episode(f"o{n}", tenant="bob", session="alike", at=float(n)) for n in (1, 3)]
    trace.upsert([mine[0], theirs[0], mine[1], theirs[1]])
    assert walk(trace, mine) == ["m0", "m2"]
    assert walk(trace, theirs) == ["o1", "o3"]
    assert trace.neighbours(mine[0].episode_id, tenant="bob") == Neighbours()


def test_a_batch_that_fails_leaves_nothing(trace: Trace) -> None:
    before = trace.count()
    bad = episode("bad", session="half", at="never")  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        trace.upsert([episode("good", session="half"), bad])
    assert trace.count() == before
    trace.upsert([episode("good", session="half")])
    assert trace.count() == before + 1


@pytest.mark.parametrize("content", [b"\xff" * 8192, b"x"])
def test_damaged_files_are_a_broken_store(tmp_path: Path, content: bytes) -> None:
    trace = Trace.open(tmp_path, buffer=BUFFER)
    trace.upsert([episode("t1")])
    trace.close()
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(BrokenStore, match="trace"):
        Trace.open(tmp_path, buffer=BUFFER)


def test_concepts_are_the_tenants_own_and_go_with_the_last_who_mentions_them(trace: Trace) -> None:
    def about(turn: str, tenant: str, *concepts: str) -> Episode:
        return msgspec.structs.replace(episode(turn, tenant=tenant, session=f"about-{turn}"), concepts=concepts)

    mine, also, theirs = about("c1", "ann", "lisbon", "cat"), about("c2", "ann", "lisbon"), about("c3", "bob", "lisbon")
    trace.upsert([mine, also, theirs])
    trace.upsert([mine])
    assert trace.concepts(mine.episode_id, tenant="ann") == ["cat", "lisbon"]
    assert trace.concepts(mine.episode_id, tenant="bob") == []
    trace.remove_session("about-c1", tenant="ann")
    assert trace.concepts(mine.episode_id, tenant="ann") == []
    assert trace.concepts(also.episode_id, tenant="ann") == ["lisbon"]
    assert trace.concepts(theirs.episode_id, tenant="bob") == ["lisbon"]
    left = [row[0] for row in trace._rows("MATCH (c:Concept) RETURN c.name ORDER BY c.name")]
    assert left == ["lisbon", "lisbon"]
