"""Vectors in a real qdrant-edge shard."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.memory.atlas import CONFIG, Ask, Atlas
from agents.memory.context import unpacked, windows
from agents.memory.faults import BrokenStore
from agents.memory.recall import Match
from agents.memory.record import key
from schemas.episode import Episode
from schemas.errors import SetupError, Unavailable
from tests.agents.memory.scenes import SIZE, episode, unit

_fresh = itertools.count()


def place(atlas: Atlas, *episodes: Episode) -> None:
    """Store episodes that have no neighbours."""
    atlas.place(episodes, {})


def search(atlas: Atlas, vector: Sequence[float], *, tenant: str = "ann", limit: int = 10, **more: Any) -> list[Match]:
    """Nearest first."""
    found = atlas.search(Ask(tenant=tenant, vector=tuple(vector), limit=limit, **more))
    return sorted(found, key=lambda match: -match.similarity)


@pytest.fixture
def atlas(tmp_path: Path) -> Iterator[Atlas]:
    """An empty shard."""
    opened = Atlas.open(tmp_path / "atlas", size=SIZE)
    yield opened
    opened.close()


def test_an_episode_is_found_by_its_vector_with_all_its_fields(atlas: Atlas) -> None:
    place(atlas, episode("t1", question="Où ?", answer="Là.", at=12.5, vector=unit(1)), episode("t2", vector=unit(2)))
    first, _ = search(atlas, unit(1), tenant="ann", limit=5)
    assert (first.turn_id, first.question, first.answer, first.created_at) == ("t1", "Où ?", "Là.", 12.5)
    assert first.episode_id == episode("t1").episode_id
    assert first.similarity == pytest.approx(1.0, abs=1e-5)


def test_storing_an_episode_again_changes_nothing(atlas: Atlas) -> None:
    for _ in range(3):
        place(atlas, episode("t1", vector=unit(1)))
    assert atlas.count() == 1
    assert len(search(atlas, unit(1), tenant="ann", limit=5)) == 1


def test_the_nearest_come_and_no_more_than_the_limit(atlas: Atlas) -> None:
    place(atlas, *(episode(f"t{n}", vector=unit(n)) for n in range(20)))
    assert search(atlas, unit(3), tenant="ann")[0].turn_id == "t3"
    assert len(search(atlas, unit(3), tenant="ann", limit=4)) == 4


def test_a_session_filters_within_the_tenant(atlas: Atlas) -> None:
    place(atlas, episode("t1", session="a", vector=unit(1)), episode("t2", session="b", vector=unit(1)))
    assert [match.turn_id for match in search(atlas, unit(1), tenant="ann", session_id="b", limit=5)] == ["t2"]
    assert search(atlas, unit(1), tenant="bob", session_id="b", limit=5) == []


def test_two_tenants_with_the_same_episode_id_keep_their_own(atlas: Atlas) -> None:
    mine = episode("t1", tenant="ann", answer="mine", vector=unit(1))
    theirs = msgspec.structs.replace(mine, tenant="bob", answer="theirs")
    place(atlas, mine, theirs)
    assert [match.answer for match in search(atlas, unit(1), tenant="ann", limit=5)] == ["mine"]
    assert [match.answer for match in search(atlas, unit(1), tenant="bob", limit=5)] == ["theirs"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=25))
def test_no_tenant_ever_sees_the_text_of_another(atlas: Atlas, said: list[tuple[int, int]]) -> None:
    run = next(_fresh)
    place(
        atlas,
        *(
            episode(f"{run}-{n}", tenant=f"{run}.tenant{who}", answer=f"secret of {run}.tenant{who}", vector=unit(what))
            for n, (who, what) in enumerate(said)
        ),
    )
    for who in range(8):
        own = [n for n, (teller, _) in enumerate(said) if teller == who]
        for what in range(4):
            matches = search(atlas, unit(what), tenant=f"{run}.tenant{who}", limit=100, text="secret question")
            assert {match.answer for match in matches} <= {f"secret of {run}.tenant{who}"}
            assert {match.turn_id for match in matches} == {f"{run}-{n}" for n in own}


def test_words_bring_what_the_vector_does_not_with_every_score(atlas: Atlas) -> None:
    place(atlas, *(episode(f"t{n}", question=f"talk {n}", vector=unit(n)) for n in range(30)))
    place(
        atlas,
        episode("rare", question="The quetzals were nesting.", vector=unit(99)),
        episode("bare", question="quetzal"),
    )
    found = {match.turn_id: match for match in search(atlas, unit(1), limit=3, text="Where does a quetzal nest?")}
    assert {"t1", "rare", "bare"} <= set(found)
    assert found["rare"].lexical > found["bare"].lexical > 0.0
    assert found["t1"].lexical == 0.0
    assert found["t1"].similarity == pytest.approx(1.0, abs=1e-5)
    assert abs(found["rare"].similarity) < 0.6
    assert search(atlas, unit(1), tenant="bob", text="quetzal") == []


def test_as_of_asks_the_past(atlas: Atlas) -> None:
    place(atlas, *(episode(f"t{n}", at=float(n), vector=unit(1)) for n in range(4)))
    assert {match.turn_id for match in search(atlas, unit(1), text="question", as_of=1.0)} == {"t0", "t1"}


def test_neighbours_lend_their_words_and_meaning_however_they_arrive(tmp_path: Path) -> None:
    told = [episode(f"t{n}", question=f"word{n}", answer="", at=float(n), vector=unit(n)) for n in range(6)]
    names = [key("ann", "episode", one.episode_id) for one in told]
    seen = []
    for number, order in enumerate([(0, 1, 2, 3, 4, 5), (5, 3, 1, 0, 2, 4)]):
        atlas = Atlas.open(tmp_path / f"{number}", size=SIZE)
        for at, n in enumerate(order):
            there = sorted(order[: at + 1])
            atlas.place([told[n]], windows([names[m] for m in there], [names[n]]))
        found = {match.turn_id: match for match in search(atlas, unit(2), text="word2")}
        lexical = {turn: match.lexical for turn, match in found.items()}
        assert lexical["t2"] > lexical["t1"] > lexical["t0"] > 0.0
        assert lexical["t1"] == pytest.approx(lexical["t3"], rel=0.2)
        assert lexical["t2"] == max(lexical.values())
        own = unpacked(found["t1"].vector)
        assert own is not None
        assert found["t1"].similarity > float(own @ np.array(unit(2)))
        seen.append(sorted((match.turn_id, match.similarity, match.vector, match.lexical) for match in found.values()))
        atlas.close()
    assert seen[0] == seen[1]


def test_what_is_removed_leaves_nothing_in_its_neighbours(atlas: Atlas) -> None:
    told = [episode(f"t{n}", question=f"word{n}", at=float(n), vector=unit(n)) for n in range(3)]
    names = [key("ann", "episode", one.episode_id) for one in told]
    atlas.place(told, windows(names, names))
    assert len([m for m in search(atlas, unit(1), text="word1") if m.lexical > 0]) == 3
    atlas.remove([names[1]], windows([names[0], names[2]], [names[0], names[2]]))
    assert atlas.keys() == {names[0], names[2]}
    assert [m.turn_id for m in search(atlas, unit(1), text="word1") if m.lexical > 0] == []


def test_what_was_stored_is_there_after_reopening(tmp_path: Path) -> None:
    first = Atlas.open(tmp_path / "atlas", size=SIZE)
    place(first, episode("t1", vector=unit(1)))
    first.close()
    again = Atlas.open(tmp_path / "atlas", size=SIZE)
    assert search(again, unit(1), tenant="ann", limit=1)[0].turn_id == "t1"
    again.close()


def test_a_vector_of_another_size_is_refused(atlas: Atlas) -> None:
    with pytest.raises(Unavailable, match="dim"):
        search(atlas, unit(1, size=SIZE // 2), tenant="ann", limit=1)


def test_a_shard_of_another_size_is_not_opened(tmp_path: Path) -> None:
    Atlas.open(tmp_path / "atlas", size=SIZE).close()
    with pytest.raises(SetupError, match="64 floats") as refused:
        Atlas.open(tmp_path / "atlas", size=32)
    assert refused.value.param == "vector_size"
    assert not isinstance(refused.value, BrokenStore)


def test_a_shard_of_an_earlier_version_is_made_again(tmp_path: Path) -> None:
    Atlas.open(tmp_path / "atlas", size=SIZE).close()
    config = tmp_path / "atlas" / CONFIG
    made = json.loads(config.read_text())
    made["vectors"]["own"] = made["vectors"]["context"]
    config.write_text(json.dumps(made))
    with pytest.raises(BrokenStore, match="earlier version"):
        Atlas.open(tmp_path / "atlas", size=SIZE)


def _garbage(path: Path) -> None:
    path.write_bytes(b"\xff" * 64)


def _halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = [
    (CONFIG, _garbage),
    (CONFIG, _halved),
    ("segments/*/segment.json", _halved),
    ("segments/*/vector_storage*/**/*", _halved),  # the library panics over this one
]


@pytest.mark.parametrize(("where", "damage"), DAMAGE)
def test_damaged_files_are_a_broken_store(tmp_path: Path, where: str, damage: Callable[[Path], None]) -> None:
    atlas = Atlas.open(tmp_path / "atlas", size=SIZE)
    place(atlas, episode("t1", vector=unit(1)))
    atlas.close()
    damaged = [path for path in (tmp_path / "atlas").glob(where) if path.is_file() and path.stat().st_size]
    assert damaged
    for path in damaged:
        damage(path)
    with pytest.raises(BrokenStore):
        Atlas.open(tmp_path / "atlas", size=SIZE)
