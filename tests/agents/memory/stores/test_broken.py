"""Stores that were cut, emptied, half made or forbidden: what does not open does not count, and is made again."""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from msgspec.structs import replace
from qdrant_client import AsyncQdrantClient, models

from agents.memory.projection import project_episodes
from agents.memory.settings import MemorySettings
from agents.memory.stores import generations, optimise
from agents.memory.stores.ladybug import FILE
from agents.memory.stores.neo4j import Neo4jGraph
from agents.memory.stores.pair import Stores
from agents.memory.stores.qdrant import QdrantAtlas
from agents.memory.stores.stored import CONTEXT, WORDS
from agents.memory.stores.trace import LABELS
from schemas.episode import Episode
from schemas.errors import SetupError, Unavailable
from tests.agents.memory.conftest import neo4j_settings
from tests.agents.memory.scenes import SIZE, episode, unit
from tests.agents.memory.stores.optimiser import shard
from tests.neo4j_server import Neo4jServer

pytestmark = pytest.mark.anyio

COUNT = 20
WAL = f"{FILE}.wal"


class Restarts:
    """Counts how often the projection was sent back to its beginning."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self) -> None:
        self.times += 1


async def nothing_waits() -> int:
    """All of the record is projected."""
    return 0


def episodes() -> list[Episode]:
    return [episode(f"t{number}", at=float(number), vector=unit(number)) for number in range(COUNT)]


def settings_of(directory: Path) -> MemorySettings:
    return MemorySettings(data_dir=directory, vector_size=SIZE, lock_timeout=0.1)


@pytest.fixture(scope="module")
async def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stores with episodes, closed properly; and ``killed`` beside them, as a killed process leaves them."""
    directory = tmp_path_factory.mktemp("stores") / "closed"
    stores = Stores(settings_of(directory))
    async with stores.open(Restarts()):
        await project_episodes(stores, episodes())
        optimise._copy_files(directory, directory.with_name("killed"))
    return directory


def copy_of(directory: Path, tmp_path: Path) -> Path:
    optimise._copy_files(directory, tmp_path / "memory")
    return tmp_path / "memory"


async def check_that_all_comes_back(directory: Path, *, aside: str = "") -> None:
    """Open the stores as the agent does; what is missing is projected again. ``aside`` was kept under another name."""
    stores, restarts = Stores(settings_of(directory)), Restarts()
    async with stores.open(restarts, nothing_waits):
        counts = await stores.atlas.count(), await stores.trace.count()
        assert restarts.times == (counts != (COUNT, COUNT))
        await project_episodes(stores, episodes())
        assert (await stores.atlas.count(), await stores.trace.count()) == (COUNT, COUNT)
    if aside:
        assert len(list(directory.glob(f"{aside}.broken-*"))) == 1
    async with stores.open(restarts, nothing_waits):
        assert restarts.times <= 1


LENGTHS: dict[str, Callable[[int], int]] = {
    "empty": lambda size: 0,
    "one byte": lambda size: min(1, size),
    "half": lambda size: size // 2,
    "all but one": lambda size: size - 1,
}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("left", "file"), [("closed", FILE), ("killed", FILE), ("killed", WAL)])
async def test_a_graph_file_that_was_cut_is_set_aside_or_whole(
    closed: Path, tmp_path: Path, left: str, file: str, length: str
) -> None:
    directory = copy_of(closed.with_name(left), tmp_path)
    path = directory / "trace" / file
    os.truncate(path, LENGTHS[length](path.stat().st_size))
    await check_that_all_comes_back(directory)


@pytest.mark.parametrize(("left", "file"), [("closed", FILE), ("killed", FILE), ("killed", WAL)])
async def test_a_graph_without_one_of_its_files_is_set_aside(
    closed: Path, tmp_path: Path, left: str, file: str
) -> None:
    directory = copy_of(closed.with_name(left), tmp_path)
    (directory / "trace" / file).unlink()
    (directory / "trace" / "stray").touch()
    await check_that_all_comes_back(directory, aside="trace")


def remove_segments(shard: Path) -> None:
    shutil.rmtree(shard / "segments")


def remove_segment(shard: Path) -> None:
    for path in (shard / "segments").iterdir():
        shutil.rmtree(path)


def empty_shard(shard: Path) -> None:
    shutil.rmtree(shard)
    shard.mkdir()


def name_another(shard: Path) -> None:
    (shard.with_name("2")).mkdir()
    (shard.parent / generations.CURRENT).write_text("2")


def never_in_force(shard: Path) -> None:
    (shard.parent / generations.CURRENT).unlink()


@pytest.mark.parametrize("damage", [remove_segments, remove_segment, empty_shard, name_another, never_in_force])
async def test_a_shard_that_is_not_whole_is_set_aside(
    closed: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    directory = copy_of(closed, tmp_path)
    damage(directory / "atlas" / "1")
    await check_that_all_comes_back(directory, aside="atlas")


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("file", ["mutable_id_tracker.mappings", "mutable_id_tracker.versions", "segment.json"])
async def test_a_shard_that_lost_episodes_gets_them_again(closed: Path, tmp_path: Path, file: str, length: str) -> None:
    """The library opens a shard whose list of points was cut, with fewer points."""
    directory = copy_of(closed, tmp_path)
    (path,) = (directory / "atlas").rglob(file)
    os.truncate(path, LENGTHS[length](path.stat().st_size))
    await check_that_all_comes_back(directory)


async def test_an_episode_in_hand_is_not_missed(closed: Path, tmp_path: Path) -> None:
    stores, restarts = Stores(settings_of(copy_of(closed, tmp_path))), Restarts()

    async def one_waits() -> int:
        return 1

    async with stores.open(restarts, one_waits):
        await stores.trace.upsert([episode("new")])
    async with stores.open(restarts, one_waits):
        assert restarts.times == 0
    async with stores.open(restarts, nothing_waits):
        assert restarts.times == 1


@pytest.mark.parametrize("kills", [2, pytest.param(6, marks=pytest.mark.soak)])
@pytest.mark.parametrize("birth", ["trace/trace.lbug", "atlas/1"])
async def test_a_memory_killed_just_after_a_store_was_born_starts_again(tmp_path: Path, birth: str, kills: int) -> None:
    generator = random.Random(7)
    for number in range(kills):
        directory = tmp_path / str(number)
        await anyio.to_thread.run_sync(kill_writer, directory, birth, generator.uniform(0.0, 0.01))
        await check_that_all_comes_back(directory)


def kill_writer(directory: Path, birth: str, seconds: float) -> None:
    """Start a process that writes, and kill it so many seconds after the file or folder ``birth`` is there."""
    command = [sys.executable, "-m", "tests.agents.memory.stores.writer", str(directory)]
    end = time.monotonic() + 30
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while not (directory / birth).exists():
            assert time.monotonic() < end
            time.sleep(0.0002)
        time.sleep(seconds)
        process.kill()


@pytest.fixture
def mere_user() -> Iterator[Path]:
    """A folder of a user whom permissions bind; the tests run as that user meanwhile."""
    directory = Path(tempfile.mkdtemp(prefix="kiki-stores-"))
    user = 65534 if os.geteuid() == 0 else os.geteuid()
    if os.geteuid() == 0:
        os.chown(directory, user, -1)
        os.seteuid(user)
    try:
        yield directory
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        for path in (directory, *directory.rglob("*")):
            if path.is_dir():
                path.chmod(0o700)
        shutil.rmtree(directory)


@pytest.mark.parametrize("path", ["trace", "trace/trace.lbug", "atlas/1", "atlas/1/segments", "atlas/current"])
@pytest.mark.parametrize("mode", [0o000, 0o500])
async def test_a_file_that_may_not_be_read_or_written_is_not_broken(mere_user: Path, path: str, mode: int) -> None:
    stores = Stores(settings_of(mere_user / "memory"))
    async with stores.open(Restarts()):
        await project_episodes(stores, episodes()[:2])
    forbidden = mere_user / "memory" / path
    before = forbidden.stat().st_mode
    forbidden.chmod(mode)
    with pytest.raises(SetupError, match="permissions") as error:
        async with stores.open(Restarts()):
            pass
    assert error.value.param == "data_dir"
    assert str(forbidden) in error.value.message
    forbidden.chmod(before)
    assert not list((mere_user / "memory").glob("*.broken-*"))
    restarts = Restarts()
    async with stores.open(restarts, nothing_waits):
        assert (await stores.atlas.count(), await stores.trace.count(), restarts.times) == (2, 2, 0)


async def test_a_copy_that_lacks_an_episode_does_not_take_the_shards_place(
    closed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = copy_of(closed, tmp_path)
    stores = Stores(settings_of(directory))
    original = optimise._optimise_in_child

    async def lose_points(copy: Path, *, niceness: int) -> None:
        await original(copy, niceness=niceness)
        for path in (copy / "segments").glob("*/*id_tracker*"):
            os.truncate(path, path.stat().st_size // 2)

    monkeypatch.setattr(optimise, "_optimise_in_child", lose_points)
    async with stores.open(Restarts(), nothing_waits):
        with pytest.raises(Unavailable):
            await optimise.optimise_shard(shard(stores), stores.write_lock)
        assert await stores.atlas.count() == COUNT
    await check_that_all_comes_back(directory)
    assert [path.name for path in (directory / "atlas").iterdir() if path.is_dir()] == ["1"]


async def test_a_graph_on_a_server_gets_the_constraints_it_lacks(neo4j_server: Neo4jServer, tmp_path: Path) -> None:
    graph = Neo4jGraph(neo4j_settings(tmp_path, neo4j_server))
    names = "SHOW CONSTRAINTS YIELD name WHERE name STARTS WITH 'kiki_' RETURN name ORDER BY name"
    await graph.load()
    await graph.renew()
    try:
        await graph.read("DROP CONSTRAINT kiki_episode")
        await graph.read("CREATE (:Concept {id: 'one'})")
        assert await graph.load()
        assert await graph.read(names) == [[f"kiki_{label.lower()}"] for label in sorted(LABELS)]
        assert await graph.read("MATCH (c:Concept) RETURN c.id") == [["one"]]
        await graph.read("DROP CONSTRAINT kiki_concept")
        await graph.read("CREATE (:Concept {id: 'one'})")  # by whom no constraint held back
        assert not await graph.load()
    finally:
        await graph.renew()
        await graph.close()


async def test_a_collection_that_cannot_count_words_is_made_again(tmp_path: Path) -> None:
    settings = replace(settings_of(tmp_path), atlas="qdrant")
    for sparse in (None, {WORDS: models.SparseVectorParams()}):
        client = AsyncQdrantClient(":memory:")
        await client.create_collection(
            settings.qdrant_collection,
            vectors_config={CONTEXT: models.VectorParams(size=SIZE, distance=models.Distance.DOT)},
            sparse_vectors_config=sparse,
        )
        assert not await QdrantAtlas(client, settings).load()
