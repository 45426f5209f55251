"""An embedded graph that could not move its log into its file: the memory ends, and is whole once started again."""

import uuid
from pathlib import Path

import anyio
import pytest

from agents.memory.settings import MemorySettings
from agents.memory.stores.errors import StoreStuck
from agents.memory.stores.ladybug import LadybugGraph
from agents.memory.stores.protocols import Run
from bus.connection import Bus
from tests.agents.memory.memories import run_memory_agent
from tests.agents.memory.scenes import SIZE
from tests.small_disk import mount_small_disk

pytestmark = pytest.mark.anyio

LITTLE_MEMORY = 32 * 1024**2
"""Bytes that the graph needs to open, and too few to move 16 MiB of log."""


def settings_in(directory: Path, *, memory: int = LITTLE_MEMORY) -> MemorySettings:
    return MemorySettings(data_dir=directory, vector_size=SIZE, status_interval=0.1, graph_buffer=memory)


async def write_until_stuck(graph: LadybugGraph) -> int:
    """Write until the store is stuck; returns how many sessions it took, of which all must be kept."""
    names = [uuid.uuid4().hex + "x" * 100_000 for _ in range(300)]
    for number, name in enumerate(names, start=1):

        async def create(run: Run, name: str = name) -> None:
            await run("CREATE (:Session {id: $id})", id=name)

        try:
            await graph.write(create)
        except StoreStuck:
            return number
    raise AssertionError("the store took 30 MB")


async def count_sessions(graph: LadybugGraph) -> int:
    return int((await graph.read("MATCH (s:Session) RETURN count(s)"))[0][0])


async def test_too_little_memory_for_its_log_loses_nothing(tmp_path: Path) -> None:
    graph = LadybugGraph(settings_in(tmp_path))
    await graph.renew()
    taken = await write_until_stuck(graph)
    assert "is opened anew" in graph.stuck
    await graph.close()
    again = LadybugGraph(settings_in(tmp_path))
    assert await again.load()
    assert (await count_sessions(again), again.stuck) == (taken, "")
    await again.close()


async def test_too_full_a_disk_for_its_file_loses_nothing(tmp_path: Path) -> None:
    with mount_small_disk(tmp_path / "disk", 20) as disk:
        graph = LadybugGraph(settings_in(disk, memory=4 * LITTLE_MEMORY))
        await graph.renew()
        taken = await write_until_stuck(graph)
        assert "No space left" in graph.stuck
        await graph.close()
        again = LadybugGraph(settings_in(disk, memory=4 * LITTLE_MEMORY))
        assert await again.load()
        assert await count_sessions(again) == taken
        await again.close()


async def test_the_memory_ends_and_is_whole_when_started_again(bus: Bus, tmp_path: Path) -> None:
    counts: list[int] = []

    async def serve() -> None:
        async with run_memory_agent(bus, settings_in(tmp_path)) as agent:
            graph = agent._stores._graph
            assert isinstance(graph, LadybugGraph)
            counts.append(await write_until_stuck(graph))
            await anyio.sleep(20)

    with pytest.raises(ExceptionGroup) as caught:
        await serve()
    assert caught.group_contains(StoreStuck, match="is opened anew")
    again = LadybugGraph(settings_in(tmp_path))
    assert await again.load()
    assert await count_sessions(again) == counts[0]
    await again.close()
