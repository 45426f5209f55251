"""Both stores: one owner, a killed writer, broken files, batches."""

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest

from agents.memory.episodes import episode_id
from agents.memory.projection import Projection, project_episodes
from agents.memory.search import find
from agents.memory.settings import MemorySettings
from agents.memory.stores.edge import EdgeAtlas
from agents.memory.stores.pair import Stores
from agents.memory.stores.points import Atlas
from agents.memory.stores.stored import Lookup
from bus import metrics
from schemas.episode import Episode
from schemas.errors import SetupError, Unavailable
from tests.agents.memory.scenes import SIZE, episode, owner, unit

pytestmark = pytest.mark.anyio


class Forgetful:
    """Counts how often the projection was sent back to its beginning."""

    def __init__(self) -> None:
        self.times = 0

    async def __call__(self) -> None:
        self.times += 1


@pytest.fixture
def settings(tmp_path: Path) -> MemorySettings:
    """A fresh directory; no patience with locks."""
    return MemorySettings(data_dir=tmp_path / "memory", vector_size=SIZE, lock_timeout=0.1)


@contextmanager
def writer(directory: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that writes into ``directory``, killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.agents.memory.stores.writer", str(directory)], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def read_turns(process: "subprocess.Popen[str]", most: int) -> list[str]:
    """The next turns that the writer prints."""
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(most)]


async def counts(stores: Stores) -> tuple[int, int]:
    """Episodes in Atlas and in Trace."""
    return await stores.atlas.count(), await stores.trace.count()


async def test_the_turns_that_a_killed_writer_printed_are_there(settings: MemorySettings) -> None:
    forget = Forgetful()
    turns: list[str] = []
    for _ in range(2):
        with writer(settings.data_dir) as process:
            turns = await anyio.to_thread.run_sync(read_turns, process, 12)
            process.kill()
            assert process.stdout is not None
            turns += process.stdout.read().split()
    stores = Stores(settings)
    async with stores.open(forget):
        assert forget.times == 0
        for turn in turns:
            vector = unit(int(turn[1:]))
            (match,) = await stores.atlas.search(Lookup(owner=owner(), vector=vector, limit=1))
            assert match.turn_id == turn
        near = await stores.trace.neighbours(episode_id(tenant="ann", turn_id=turns[5]), tenant="ann")
        assert near.previous == episode_id(tenant="ann", turn_id=turns[4])
        assert near.following == episode_id(tenant="ann", turn_id=turns[6])


async def test_a_second_process_is_told_who_has_the_stores(settings: MemorySettings) -> None:
    with writer(settings.data_dir) as process:
        await anyio.to_thread.run_sync(read_turns, process, 1)
        with pytest.raises(SetupError, match="another process") as error:
            async with Stores(settings).open(Forgetful()):
                pass
        assert error.value.param == "data_dir"
        await anyio.to_thread.run_sync(read_turns, process, 3)  # and the first goes on


async def test_a_directory_that_cannot_be_made_is_a_setup_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SetupError, match="cannot write"):
        async with Stores(MemorySettings(data_dir=tmp_path / "file")).open(Forgetful()):
            pass


@pytest.mark.parametrize("name", ["atlas", "trace"])
async def test_a_broken_store_is_set_aside_and_the_other_kept(settings: MemorySettings, name: str) -> None:
    stores, forget = Stores(settings), Forgetful()
    async with stores.open(forget):
        await project_episodes(stores, [episode("t1", vector=unit(1))])
    assert forget.times == 1
    for path in (settings.data_dir / name).rglob("*"):
        if path.is_file():
            path.write_bytes(b"\xff" * 64)
    before = metrics.DEGRADED.labels(f"{name}.broken")._value.get()
    async with stores.open(forget):
        assert await counts(stores) == ((0, 1) if name == "atlas" else (1, 0))
    assert forget.times == 2
    assert metrics.DEGRADED.labels(f"{name}.broken")._value.get() == before + 1
    assert len(list(settings.data_dir.glob(f"{name}.broken-*"))) == 1


async def test_an_episode_without_a_fitting_embedding_is_found_by_its_words(settings: MemorySettings) -> None:
    stores = Stores(settings)
    async with stores.open(Forgetful()):
        await project_episodes(
            stores, [episode("none"), episode("small", vector=unit(1, size=8)), episode("t", vector=unit(1))]
        )
        assert await counts(stores) == (3, 3)
        lookup = Lookup(owner=owner(), vector=unit(1), text="the question of small")
        ranking = await find(stores, lookup, now=0.0, settings=settings)
        own = {candidate.match.turn_id: candidate.match.own > 0.9 for candidate in ranking}
        assert own == {"none": False, "small": False, "t": True}


async def test_a_closed_store_says_so(settings: MemorySettings) -> None:
    with pytest.raises(Unavailable, match="atlas is closed"):
        await Stores(settings).atlas.count()


async def test_a_call_that_was_left_behind_is_not_joined_by_another(settings: MemorySettings) -> None:
    stores, finish, inside = Stores(settings), threading.Event(), threading.Event()

    def wait_inside(_: Atlas) -> None:
        inside.set()
        assert finish.wait(60)

    assert isinstance(stores.atlas, EdgeAtlas)
    part = stores.atlas.store
    async with stores.open(Forgetful()):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: part.run(wait_inside, abandon=True))
            await anyio.to_thread.run_sync(inside.wait)
            tasks.cancel_scope.cancel()
        finish_states: list[bool] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: part.run(lambda _: finish_states.append(finish.is_set())))
            await anyio.sleep(0.1)
            finish.set()
        assert finish_states == [True]


async def keep(episodes: Sequence[Episode]) -> list[Episode]:
    """The embeddings stay."""
    return list(episodes)


async def test_waiting_episodes_share_a_batch_and_a_poison_one_fails_alone(settings: MemorySettings) -> None:
    stores = Stores(settings)
    projection = Projection(stores, keep)
    failures: list[Episode] = []

    async def add(entry: Episode) -> None:
        try:
            await projection.add(entry, recorded_at=entry.created_at)
        except Unavailable:
            failures.append(entry)

    async def add_all(episodes: Sequence[Episode]) -> None:
        async with anyio.create_task_group() as tasks:
            for entry in episodes:
                tasks.start_soon(add, entry)

    async with stores.open(Forgetful()):
        poison = episode("poison", at="never", vector=unit(99))  # type: ignore[arg-type]
        with anyio.fail_after(60):
            await add_all([*(episode(f"t{n}", vector=unit(n)) for n in range(8)), poison])
        assert failures == [poison]
        assert (await counts(stores))[1] == 8


async def test_an_episode_cancelled_while_waiting_leaves_no_trace(settings: MemorySettings) -> None:
    stores = Stores(settings)
    projection = Projection(stores, keep)
    async with stores.open(Forgetful()):
        async with stores.write_lock, anyio.create_task_group() as tasks:
            tasks.start_soon(partial(projection.add, recorded_at=1.0), episode("gone", vector=unit(1)))
            await anyio.sleep(0.05)
            tasks.cancel_scope.cancel()
        await projection.add(episode("kept", vector=unit(2)), recorded_at=1.0)
        assert await counts(stores) == (1, 1)
