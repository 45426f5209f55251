"""A child process that projects episodes for ever, until somebody kills it: prints each turn once it is stored."""

import sys
from itertools import count
from pathlib import Path

import anyio

from agents.memory.projection import project_episodes
from agents.memory.settings import MemorySettings
from agents.memory.stores.pair import Stores
from tests.agents.memory.scenes import SIZE, episode, unit


async def do_nothing() -> None:
    """The child has no bus."""


async def main(directory: Path) -> None:
    """Open the stores in ``directory`` and write."""
    stores = Stores(MemorySettings(data_dir=directory, vector_size=SIZE))
    async with stores.open(do_nothing):
        for number in count():
            await project_episodes(stores, [episode(f"t{number}", at=float(number), vector=unit(number))])
            print(f"t{number}", flush=True)


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
