"""One tenant's part of both stores, made again from the record while the others' stays."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from agents.memory.projection import apply
from agents.memory.stores.pair import Stores
from bus.connection import Bus
from bus.record import stored
from bus.stream import BATCH
from schemas.episode import Episode

Recorded = tuple[Episode, float]
"""An episode and the Unix time at which the record got it."""


async def renewed(stores: Stores, bus: Bus, *, tenant: str) -> int:
    """Remove what the stores have of the tenant and project it again; how many episodes that were.

    The projection waits meanwhile. A crash in between leaves too little: renewing again mends it.

    Raises:
        Unavailable: the broker or a store failed.
    """
    count = 0
    async with stores.changing:
        await stores.atlas.remove(sorted(await stores.atlas.keys(tenant=tenant)), {})
        await stores.trace.remove_tenant(tenant)
        async with aclosing(stored(bus, tenant=tenant)) as found:
            async for batch in _batches(found):
                await apply(stores, [one for one, _ in batch], recorded_at={one.episode_id: at for one, at in batch})
                count += len(batch)
    return count


async def _batches(found: AsyncIterator[Recorded]) -> AsyncIterator[list[Recorded]]:
    batch: list[Recorded] = []
    async for one in found:
        batch.append(one)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
