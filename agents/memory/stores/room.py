"""Room for the embedded stores. Atlas writes into mapped files: on a full disk that ends the process with SIGBUS."""

import anyio

from agents.memory.settings import MemorySettings
from agents.memory.stores.errors import StoreFull
from bus import metrics
from bus.storage.disk import describe_lack

SHARE = 0.6
"""Part of the disk's reserve that the stores leave free: what was answered is kept when turns are refused already, and
the graph can still move its log, of 16 MiB by its library's default, into its file, where it takes about twice that."""

PAUSE_SECONDS = 1.0
"""Seconds between two looks at whether there is room to open the stores."""


def require_room(settings: MemorySettings, *, need: int = 0) -> None:
    """Return when the disk of the embedded stores has room for a write, and for ``need`` bytes beside it.

    Raises:
        StoreFull: it has none, and why.
    """
    if settings.atlas == "qdrant" and settings.trace == "neo4j":
        return
    if lack := describe_lack(settings.data_dir, reserve=settings.disk_reserve, share=SHARE, need=need):
        raise StoreFull(f"episodes wait for the stores: {lack}.")


async def wait_for_room(settings: MemorySettings) -> None:
    """Return when there is room to open the stores, which write when they are opened."""
    while True:
        try:
            require_room(settings)
        except StoreFull as error:
            metrics.count_degraded("stores.full", error.message)
            await anyio.sleep(PAUSE_SECONDS)
        else:
            return
