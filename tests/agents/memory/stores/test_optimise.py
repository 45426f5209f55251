"""Atlas optimised while it is used: what was written is there, what was forgotten is gone, whoever is killed."""

import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
import psutil
import pytest

from agents.memory.episodes import store_key
from agents.memory.projection import project_episodes
from agents.memory.settings import MemorySettings
from agents.memory.stores import generations, optimise_child
from agents.memory.stores.optimise import (
    ERASURE_NICENESS,
    GROWTH_NICENESS,
    OptimisationRun,
    _rest,
    is_due,
    optimise_shard,
)
from agents.memory.stores.pair import Stores
from agents.memory.stores.points import Atlas
from agents.memory.stores.stored import Lookup
from schemas.episode import Episode
from schemas.errors import Unavailable
from tests.agents.memory.memories import eventually
from tests.agents.memory.scenes import SIZE, episode, owner, unit
from tests.agents.memory.stores.optimiser import shard

pytestmark = pytest.mark.anyio


async def do_nothing() -> None:
    """The stores begin empty."""


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    """Forty episodes of one session."""
    new_stores = Stores(MemorySettings(data_dir=tmp_path / "memory", vector_size=SIZE))
    async with new_stores.open(do_nothing):
        await project_episodes(new_stores, [secret_episode(number) for number in range(40)])
        yield new_stores


def secret(number: int) -> str:
    """Something that no compression can shorten."""
    return hashlib.sha256(bytes([number])).hexdigest()


def secret_episode(number: int) -> Episode:
    """An episode with a secret in it."""
    text = f"the password of heron{number} is {secret(number)}"
    return episode(f"t{number}", question=text, at=float(number), vector=unit(number))


def name(number: int) -> str:
    return store_key("ann", "episode", secret_episode(number).episode_id)


async def search_episode(stores: Stores, number: int) -> dict[str, float]:
    """What a search for one episode gives, with the cosines."""
    lookup = Lookup(owner=owner(), vector=unit(number), text=f"heron{number}", limit=5)
    matches = await shard(stores).run(lambda atlas: atlas.search(lookup))
    return {match.turn_id: round(match.similarity, 4) for match in matches}


def files_contain(directory: Path, text: str) -> bool:
    return any(text.encode() in path.read_bytes() for path in directory.rglob("*") if path.is_file())


def children() -> list[psutil.Process]:
    """The optimising processes that this one has."""
    return [process for process in psutil.Process().children() if optimise_child.__name__ in process.cmdline()]


async def test_the_copy_finds_what_the_shard_found_and_what_was_written_meanwhile(stores: Stores) -> None:
    before = [await search_episode(stores, number) for number in range(3)]
    searches = 0

    async def search_forever() -> None:
        nonlocal searches
        while True:
            assert "t1" in await search_episode(stores, 1)
            searches += bool(children())
            await anyio.sleep(0.01)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(search_forever)
        tasks.start_soon(write_while_it_works, stores)
        run = await optimise_shard(shard(stores), stores.write_lock)
        tasks.cancel_scope.cancel()
    assert searches > 1, "nobody could search while the copy was optimised"
    assert run.episodes == 40 + 2 - 1
    assert [await search_episode(stores, number) for number in range(3)] == before
    assert {"t100"} <= (await search_episode(stores, 100)).keys()
    assert "t39" not in await search_episode(stores, 39)
    keys = await shard(stores).run(lambda atlas: atlas.keys())
    assert keys == {name(number) for number in (*range(39), 100, 101)}
    assert [path.name for path in shard(stores).directory.iterdir() if path.is_dir()] == ["2"]
    assert not generations.copy_directory(shard(stores).directory).exists()


async def write_while_it_works(stores: Stores) -> None:
    async def is_working() -> bool:
        return bool(children())

    await eventually(is_working)
    async with stores.write_lock:
        await project_episodes(
            stores, [msgspec.structs.replace(secret_episode(number), session_id="later") for number in (100, 101)]
        )
        await shard(stores).run(lambda atlas: atlas.remove([name(39)], {}))


async def test_a_forgotten_episode_is_in_no_file_any_more(stores: Stores) -> None:
    directory = shard(stores).directory
    assert files_contain(directory, secret(39))
    assert not await shard(stores).run(lambda atlas: is_due(atlas, after=1000))
    await shard(stores).run(lambda atlas: atlas.remove([name(39)], {}))
    assert await shard(stores).run(lambda atlas: is_due(atlas, after=1000))
    await optimise_shard(shard(stores), stores.write_lock)
    assert not files_contain(directory, secret(39))
    assert files_contain(directory, secret(38))
    assert not await shard(stores).run(lambda atlas: is_due(atlas, after=1000))


@pytest.mark.parametrize(("forgotten", "niceness"), [(False, GROWTH_NICENESS), (True, ERASURE_NICENESS)])
async def test_a_run_that_erases_stands_less_far_back(stores: Stores, forgotten: bool, niceness: int) -> None:
    """On a machine whose processors are all wanted, one that stands back as far as it can gets hardly any time."""

    async def stands_back() -> bool:
        return [child.nice() for child in children()] == [min(19, os.nice(0) + niceness)]

    if forgotten:
        await shard(stores).run(lambda atlas: atlas.remove([name(39)], {}))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(eventually, stands_back)
        await optimise_shard(shard(stores), stores.write_lock)


async def test_the_pause_after_a_run_ends_when_something_is_forgotten(stores: Stores) -> None:
    grown = OptimisationRun(episodes=40, seconds=100.0, copied=0.0)
    with anyio.move_on_after(0.3) as waiting:
        await _rest(shard(stores), grown, interval=0.05)
    assert waiting.cancelled_caught
    await shard(stores).run(lambda atlas: atlas.remove([name(39)], {}))
    with anyio.fail_after(10):
        await _rest(shard(stores), grown, interval=0.05)
    with anyio.move_on_after(0.3) as waiting:  # after an erasure it is kept, so that erasures do not take all the time
        await _rest(shard(stores), msgspec.structs.replace(grown, erased=True), interval=0.05)
    assert waiting.cancelled_caught


async def test_optimising_is_due_after_so_many_episodes_and_not_again_at_once(stores: Stores) -> None:
    assert await shard(stores).run(lambda atlas: is_due(atlas, after=40))
    await optimise_shard(shard(stores), stores.write_lock)
    assert not await shard(stores).run(lambda atlas: is_due(atlas, after=1))
    await project_episodes(stores, [secret_episode(number) for number in range(40, 52)])
    assert await shard(stores).run(lambda atlas: is_due(atlas, after=1))
    assert not await shard(stores).run(lambda atlas: is_due(atlas, after=13))


async def test_a_killed_child_changes_nothing(stores: Stores) -> None:
    async def kill() -> bool:
        for child in children():
            for process in (*child.children(), child):
                process.kill()
            return True
        return False

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(eventually, kill)
        with pytest.raises(Unavailable, match="optimising the atlas failed"):
            await optimise_shard(shard(stores), stores.write_lock)
    await check_unharmed(stores, 40)


async def test_a_rebuild_meanwhile_wins(stores: Stores) -> None:
    async def renew() -> bool:
        if not children():
            return False
        async with stores.write_lock:
            await stores.renew(do_nothing)
        return True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(eventually, renew)
        with pytest.raises(Unavailable, match="began anew"):
            await optimise_shard(shard(stores), stores.write_lock)
    await project_episodes(stores, [secret_episode(number) for number in range(5)])
    await check_unharmed(stores, 5)


async def check_unharmed(stores: Stores, count: int) -> None:
    """All is there, in the first shard, and the next run succeeds."""
    assert await shard(stores).run(lambda atlas: atlas.count()) == count
    assert [path.name for path in shard(stores).directory.iterdir() if path.is_dir()] == ["1"]
    assert not generations.copy_directory(shard(stores).directory).exists()
    assert (await optimise_shard(shard(stores), stores.write_lock)).episodes == count
    assert "t4" in await search_episode(stores, 4)


def run_until_killed(directory: Path, enough: Callable[[list[str]], bool]) -> list[str]:
    """Run a process that writes and optimises, kill it when it has printed ``enough``, and return its lines."""
    command = [sys.executable, "-m", "tests.agents.memory.stores.optimiser", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines: list[str] = []
        while not enough(lines):
            lines.append(process.stdout.readline().strip())
            assert lines[-1], "the process ended by itself"
        process.kill()
        return lines + process.stdout.read().split()


async def test_a_process_killed_at_any_moment_loses_no_turn_that_it_printed(tmp_path: Path) -> None:
    """Once while a copy is optimised, and once just after a copy took the shard's place; no child stays behind."""
    turns: set[str] = set()
    moments: tuple[Callable[[list[str]], bool], ...] = (
        lambda lines: generations.copy_directory(tmp_path / "memory" / "atlas").is_dir() and len(lines) > 5,
        lambda lines: "optimised" in lines,
    )
    for enough in moments:
        lines = await anyio.to_thread.run_sync(run_until_killed, tmp_path / "memory", enough)
        turns |= {line for line in lines if line.startswith("t")}

        async def all_ended() -> bool:
            commands = (" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
            return not any(str(tmp_path) in command for command in commands)

        await eventually(all_ended)
        atlas = Atlas.open(tmp_path / "memory" / "atlas", size=SIZE)
        assert {store_key("ann", "episode", episode(turn).episode_id) for turn in turns} <= atlas.keys()
        assert not generations.copy_directory(tmp_path / "memory" / "atlas").exists()
        atlas.close()
