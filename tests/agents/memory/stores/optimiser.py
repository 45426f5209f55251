"""A process that writes into the stores and optimises Atlas over and over, until it is killed: ``DIRECTORY``."""

import sys
from pathlib import Path

import anyio

from agents.memory.projection import project_episodes
from agents.memory.settings import MemorySettings
from agents.memory.stores.edge import EdgeAtlas
from agents.memory.stores.embedded import EmbeddedStore
from agents.memory.stores.optimise import optimise_shard
from agents.memory.stores.pair import Stores
from agents.memory.stores.points import Atlas
from tests.agents.memory.scenes import SIZE, episode, unit


def shard(stores: Stores) -> EmbeddedStore[Atlas]:
    """The embedded Atlas."""
    assert isinstance(stores.atlas, EdgeAtlas)
    return stores.atlas.store


async def _write(stores: Stores, first: int) -> None:
    number = first
    while True:
        async with stores.write_lock:
            await project_episodes(stores, [episode(f"t{number}", at=float(number), vector=unit(number))])
        print(f"t{number}", flush=True)
        number += 1


async def _optimise(stores: Stores) -> None:
    while True:
        await optimise_shard(shard(stores), stores.write_lock)
        print("optimised", flush=True)


async def _do_nothing() -> None:
    """The stores begin empty."""


async def main(directory: Path) -> None:
    """Write and optimise until the process is killed."""
    stores = Stores(MemorySettings(data_dir=directory, vector_size=SIZE))
    async with stores.open(_do_nothing), anyio.create_task_group() as tasks:
        first = await shard(stores).run(lambda atlas: atlas.count())
        tasks.start_soon(_write, stores, first)
        tasks.start_soon(_optimise, stores)


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
