"""The files of a qdrant-edge shard: opened again, of another size or version, damaged."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.memory.stores import generations
from agents.memory.stores.errors import BrokenStore
from agents.memory.stores.points import CONFIG, Atlas
from agents.memory.stores.stored import WORDS, Lookup
from tests.agents.memory.scenes import SIZE, episode, owner, unit


def test_a_stored_episode_is_there_after_reopening(tmp_path: Path) -> None:
    first = Atlas.create(tmp_path / "atlas", size=SIZE)
    first.place([episode("t1", vector=unit(1))], {})
    first.close()
    again = Atlas.open(tmp_path / "atlas", size=SIZE)
    assert again.search(Lookup(owner=owner(), vector=unit(1), limit=1))[0].turn_id == "t1"
    again.close()


def test_a_shard_of_another_size_is_made_again(tmp_path: Path) -> None:
    Atlas.create(tmp_path / "atlas", size=SIZE).close()
    with pytest.raises(BrokenStore, match="64 floats") as error:
        Atlas.open(tmp_path / "atlas", size=32)
    assert error.value.param == "vector_size"


def test_a_shard_of_words_that_were_counted_otherwise_is_made_again(tmp_path: Path) -> None:
    Atlas.create(tmp_path / "atlas", size=SIZE).close()
    config = tmp_path / "atlas" / "1" / CONFIG
    config.write_text(config.read_text().replace(WORDS, "words"))
    with pytest.raises(BrokenStore, match="earlier version"):
        Atlas.open(tmp_path / "atlas", size=SIZE)


def test_a_shard_of_an_earlier_version_is_made_again(tmp_path: Path) -> None:
    Atlas.create(tmp_path / "atlas", size=SIZE).close()
    config = tmp_path / "atlas" / "1" / CONFIG
    content = json.loads(config.read_text())
    content["vectors"]["own"] = content["vectors"]["context"]
    config.write_text(json.dumps(content))
    with pytest.raises(BrokenStore, match="earlier version"):
        Atlas.open(tmp_path / "atlas", size=SIZE)


def _fill_with_garbage(path: Path) -> None:
    path.write_bytes(b"\xff" * 64)


def _halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = [
    (generations.CURRENT, _fill_with_garbage),
    (f"1/{CONFIG}", _fill_with_garbage),
    (f"1/{CONFIG}", _halve),
    ("1/segments/*/segment.json", _halve),
    ("1/segments/*/vector_storage*/**/*", _halve),  # the library panics over this one
]


@pytest.mark.parametrize(("where", "damage"), DAMAGE)
def test_damaged_files_are_a_broken_store(tmp_path: Path, where: str, damage: Callable[[Path], None]) -> None:
    atlas = Atlas.create(tmp_path / "atlas", size=SIZE)
    atlas.place([episode("t1", vector=unit(1))], {})
    atlas.close()
    files = [path for path in (tmp_path / "atlas").glob(where) if path.is_file() and path.stat().st_size]
    assert files
    for path in files:
        damage(path)
    with pytest.raises(BrokenStore):
        Atlas.open(tmp_path / "atlas", size=SIZE)
