"""Atlas optimised while it is used: what was written is there, what was forgotten is gone, whoever is killed."""

import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
import psutil
import pytest

from agents.memory.episodes import key
from agents.memory.projection import apply
from agents.memory.settings import MemorySettings
from agents.memory.stores import generations, optimise_child
from agents.memory.stores.optimise import due, optimised
from agents.memory.stores.pair import Stores
from agents.memory.stores.points import Ask, Atlas
from schemas.episode import Episode
from schemas.errors import Unavailable
from tests.agents.memory.memories import eventually
from tests.agents.memory.scenes import SIZE, episode, unit
from tests.agents.memory.stores.optimiser import shard

pytestmark = pytest.mark.anyio


async def nothing() -> None:
    """The stores begin empty."""


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    """Forty episodes of one session."""
    opened = Stores(MemorySettings(data_dir=tmp_path / "memory", vector_size=SIZE))
    async with opened.opened(nothing):
        await apply(opened, [told(number) for number in range(40)])
        yield opened


def secret(number: int) -> str:
    """Something that no compression can shorten."""
    return hashlib.sha256(bytes([number])).hexdigest()


def told(number: int) -> Episode:
    """An episode with a secret in it."""
    said = f"the password of heron{number} is {secret(number)}"
    return episode(f"t{number}", question=said, at=float(number), vector=unit(number))


def name(number: int) -> str:
    return key("ann", "episode", told(number).episode_id)


async def found(stores: Stores, number: int) -> dict[str, float]:
    """What a search for one episode gives, with the cosines."""
    ask = Ask(tenant="ann", vector=unit(number), text=f"heron{number}", limit=5)
    matches = await shard(stores).run(lambda atlas: atlas.search(ask))
    return {match.turn_id: round(match.similarity, 4) for match in matches}


def bytes_hold(directory: Path, text: str) -> bool:
    return any(text.encode() in path.read_bytes() for path in directory.rglob("*") if path.is_file())


def children() -> list[psutil.Process]:
    """The optimising processes that this one has."""
    return [one for one in psutil.Process().children() if optimise_child.__name__ in one.cmdline()]


async def test_the_copy_finds_what_the_shard_found_and_what_was_written_meanwhile(stores: Stores) -> None:
    before = [await found(stores, number) for number in range(3)]
    searches = 0

    async def use() -> None:
        nonlocal searches
        while True:
            assert "t1" in await found(stores, 1)
            searches += bool(children())
            await anyio.sleep(0.01)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(use)
        tasks.start_soon(write_while_it_works, stores)
        done = await optimised(shard(stores), stores.changing)
        tasks.cancel_scope.cancel()
    assert searches > 1, "nobody could search while the copy was optimised"
    assert done.episodes == 40 + 2 - 1
    assert [await found(stores, number) for number in range(3)] == before
    assert {"t100"} <= (await found(stores, 100)).keys()
    assert "t39" not in await found(stores, 39)
    keys = await shard(stores).run(lambda atlas: atlas.keys())
    assert keys == {name(number) for number in (*range(39), 100, 101)}
    assert [path.name for path in shard(stores).directory.iterdir() if path.is_dir()] == ["2"]
    assert not generations.aside(shard(stores).directory).exists()


async def write_while_it_works(stores: Stores) -> None:
    async def working() -> bool:
        return bool(children())

    await eventually(working)
    async with stores.changing:
        await apply(stores, [msgspec.structs.replace(told(number), session_id="later") for number in (100, 101)])
        await shard(stores).run(lambda atlas: atlas.remove([name(39)], {}))


async def test_what_was_forgotten_is_in_no_file_any_more(stores: Stores) -> None:
    directory = shard(stores).directory
    assert bytes_hold(directory, secret(39))
    assert not await shard(stores).run(lambda atlas: due(atlas, after=1000))
    await shard(stores).run(lambda atlas: atlas.remove([name(39)], {}))
    assert await shard(stores).run(lambda atlas: due(atlas, after=1000))
    await optimised(shard(stores), stores.changing)
    assert not bytes_hold(directory, secret(39))
    assert bytes_hold(directory, secret(38))
    assert not await shard(stores).run(lambda atlas: due(atlas, after=1000))


async def test_it_is_due_after_so_many_episodes_and_not_again_at_once(stores: Stores) -> None:
    assert await shard(stores).run(lambda atlas: due(atlas, after=40))
    await optimised(shard(stores), stores.changing)
    assert not await shard(stores).run(lambda atlas: due(atlas, after=1))
    await apply(stores, [told(number) for number in range(40, 52)])
    assert await shard(stores).run(lambda atlas: due(atlas, after=1))
    assert not await shard(stores).run(lambda atlas: due(atlas, after=13))


async def test_a_killed_child_changes_nothing(stores: Stores) -> None:
    async def kill() -> bool:
        for child in children():
            for one in (*child.children(), child):
                one.kill()
            return True
        return False

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(eventually, kill)
        with pytest.raises(Unavailable, match="optimising the atlas failed"):
            await optimised(shard(stores), stores.changing)
    await still_right(stores, 40)


async def test_a_rebuild_meanwhile_wins(stores: Stores) -> None:
    async def renew() -> bool:
        if not children():
            return False
        async with stores.changing:
            await stores.renew(nothing)
        return True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(eventually, renew)
        with pytest.raises(Unavailable, match="began anew"):
            await optimised(shard(stores), stores.changing)
    await apply(stores, [told(number) for number in range(5)])
    await still_right(stores, 5)


async def still_right(stores: Stores, count: int) -> None:
    """All is there, in the first shard, and the next run succeeds."""
    assert await shard(stores).run(lambda atlas: atlas.count()) == count
    assert [path.name for path in shard(stores).directory.iterdir() if path.is_dir()] == ["1"]
    assert not generations.aside(shard(stores).directory).exists()
    assert (await optimised(shard(stores), stores.changing)).episodes == count
    assert "t4" in await found(stores, 4)


def told_until(directory: Path, enough: Callable[[list[str]], bool]) -> list[str]:
    """What a process told that wrote and optimised, until it was killed."""
    command = [sys.executable, "-m", "tests.agents.memory.stores.optimiser", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines: list[str] = []
        while not enough(lines):
            lines.append(process.stdout.readline().strip())
            assert lines[-1], "the process ended by itself"
        process.kill()
        return lines + process.stdout.read().split()


async def test_killed_at_any_moment_it_loses_nothing_that_was_told(tmp_path: Path) -> None:
    """Once while a copy is optimised, and once just after a copy took the shard's place; no child stays behind."""
    told_turns: set[str] = set()
    moments: tuple[Callable[[list[str]], bool], ...] = (
        lambda lines: generations.aside(tmp_path / "memory" / "atlas").is_dir() and len(lines) > 5,
        lambda lines: "optimised" in lines,
    )
    for enough in moments:
        lines = await anyio.to_thread.run_sync(told_until, tmp_path / "memory", enough)
        told_turns |= {line for line in lines if line.startswith("t")}

        async def gone() -> bool:
            commands = (" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"]))
            return not any(str(tmp_path) in command for command in commands)

        await eventually(gone)
        atlas = Atlas.open(tmp_path / "memory" / "atlas", size=SIZE)
        assert {key("ann", "episode", episode(turn).episode_id) for turn in told_turns} <= atlas.keys()
        assert not generations.aside(tmp_path / "memory" / "atlas").exists()
        atlas.close()
