"""Vectors in a real qdrant-edge shard."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.memory.atlas import CONFIG, Atlas
from agents.memory.faults import BrokenStore
from schemas.errors import SetupError, Unavailable
from tests.agents.memory.scenes import SIZE, episode, unit

_fresh = itertools.count()


@pytest.fixture
def atlas(tmp_path: Path) -> Iterator[Atlas]:
    """An empty shard."""
    opened = Atlas.open(tmp_path / "atlas", size=SIZE)
    yield opened
    opened.close()


def test_an_episode_is_found_by_its_vector_with_all_its_fields(atlas: Atlas) -> None:
    atlas.upsert([episode("t1", question="Où ?", answer="Là.", at=12.5, vector=unit(1)), episode("t2", vector=unit(2))])
    first, _ = atlas.search(unit(1), tenant="ann", limit=5)
    assert (first.turn_id, first.question, first.answer, first.created_at) == ("t1", "Où ?", "Là.", 12.5)
    assert first.episode_id == episode("t1").episode_id
    assert first.similarity == pytest.approx(1.0, abs=1e-5)


def test_storing_an_episode_again_changes_nothing(atlas: Atlas) -> None:
    for _ in range(3):
        atlas.upsert([episode("t1", vector=unit(1))])
    assert atlas.count() == 1
    assert len(atlas.search(unit(1), tenant="ann", limit=5)) == 1


def test_nothing_below_the_floor_and_no_more_than_the_limit(atlas: Atlas) -> None:
    atlas.upsert([episode(f"t{n}", vector=unit(n)) for n in range(20)])
    assert [match.turn_id for match in atlas.search(unit(3), tenant="ann", limit=10, floor=0.9)] == ["t3"]
    assert len(atlas.search(unit(3), tenant="ann", limit=4)) == 4


def test_a_session_filters_within_the_tenant(atlas: Atlas) -> None:
    atlas.upsert([episode("t1", session="a", vector=unit(1)), episode("t2", session="b", vector=unit(1))])
    assert [match.turn_id for match in atlas.search(unit(1), tenant="ann", session_id="b", limit=5)] == ["t2"]
    assert atlas.search(unit(1), tenant="bob", session_id="b", limit=5) == []


def test_two_tenants_with_the_same_episode_id_keep_their_own(atlas: Atlas) -> None:
    mine = episode("t1", tenant="ann", answer="mine", vector=unit(1))
    theirs = msgspec.structs.replace(mine, tenant="bob", answer="theirs")
    atlas.upsert([mine, theirs])
    assert [match.answer for match in atlas.search(unit(1), tenant="ann", limit=5)] == ["mine"]
    assert [match.answer for match in atlas.search(unit(1), tenant="bob", limit=5)] == ["theirs"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=25))
def test_no_tenant_ever_sees_the_text_of_another(atlas: Atlas, said: list[tuple[int, int]]) -> None:
    run = next(_fresh)
    atlas.upsert(
        [
            episode(f"{run}-{n}", tenant=f"{run}.tenant{who}", answer=f"secret of {run}.tenant{who}", vector=unit(what))
            for n, (who, what) in enumerate(said)
        ]
    )
    for who in range(8):
        own = [n for n, (teller, _) in enumerate(said) if teller == who]
        for what in range(4):
            matches = atlas.search(unit(what), tenant=f"{run}.tenant{who}", limit=100)
            assert {match.answer for match in matches} <= {f"secret of {run}.tenant{who}"}
            assert {match.turn_id for match in matches} == {f"{run}-{n}" for n in own}


def test_what_was_stored_is_there_after_reopening(tmp_path: Path) -> None:
    first = Atlas.open(tmp_path / "atlas", size=SIZE)
    first.upsert([episode("t1", vector=unit(1))])
    first.close()
    again = Atlas.open(tmp_path / "atlas", size=SIZE)
    assert again.search(unit(1), tenant="ann", limit=1)[0].turn_id == "t1"
    again.close()


def test_a_vector_of_another_size_is_refused(atlas: Atlas) -> None:
    with pytest.raises(Unavailable, match="dim"):
        atlas.search(unit(1, size=SIZE // 2), tenant="ann", limit=1)


def test_a_shard_of_another_size_is_not_opened(tmp_path: Path) -> None:
    Atlas.open(tmp_path / "atlas", size=SIZE).close()
    with pytest.raises(SetupError, match="64 floats") as refused:
        Atlas.open(tmp_path / "atlas", size=32)
    assert refused.value.param == "vector_size"
    assert not isinstance(refused.value, BrokenStore)


def _garbage(path: Path) -> None:
    path.write_bytes(b"\xff" * 64)


def _halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = [
    (CONFIG, _garbage),
    (CONFIG, _halved),
    ("segments/*/segment.json", _halved),
    ("wal/open-*", _garbage),
    ("segments/*/vector_storage/**/*", _halved),  # the library panics over this one
]


@pytest.mark.parametrize(("where", "damage"), DAMAGE)
def test_damaged_files_are_a_broken_store(tmp_path: Path, where: str, damage: Callable[[Path], None]) -> None:
    atlas = Atlas.open(tmp_path / "atlas", size=SIZE)
    atlas.upsert([episode("t1", vector=unit(1))])
    atlas.close()
    damaged = [path for path in (tmp_path / "atlas").glob(where) if path.is_file() and path.stat().st_size]
    assert damaged
    for path in damaged:
        damage(path)
    with pytest.raises(BrokenStore):
        Atlas.open(tmp_path / "atlas", size=SIZE)
