"""Makes both stores again from the record, or a tenant's or a user's part of them; all other parts stay."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from agents.memory.embedding import Renew
from agents.memory.projection import project_episodes
from agents.memory.stores.pair import Stores
from bus import failpoints
from bus.connection import Bus
from bus.record import list_forgotten, read_timed_episodes
from bus.stream import BATCH
from schemas.episode import Episode

StampedEpisode = tuple[Episode, float]
"""An episode and the Unix time at which the record stored it."""


async def renew_tenant(stores: Stores, bus: Bus, renew: Renew, *, tenant: str, user: str | None = None) -> int:
    """Remove what the stores have of the tenant or user and project it again; return the number of their episodes.

    The projection waits meanwhile. After a crash in between, episodes are missing until this is run again.

    Raises:
        Unavailable: the broker, the embedder or a store failed.
    """
    async with stores.write_lock:
        await stores.atlas.remove(sorted(await stores.atlas.keys(tenant=tenant, user=user)), {})
        await stores.trace.remove_tenant(tenant, user=user)
        return await project_record(stores, bus, renew, tenant=tenant, user=user)


async def project_record(
    stores: Stores, bus: Bus, renew: Renew, *, tenant: str | None = None, user: str | None = None
) -> int:
    """Project the episodes that are recorded by now (a tenant's or a user's) and not forgotten; return their number.

    A batch of hundreds costs an embedded graph an eighth of what it costs by messages. The caller holds ``write_lock``.

    Raises:
        Unavailable: the broker or a store failed.
    """
    await failpoints.pass_window("rebuild.emptied")
    count, forgotten = 0, await list_forgotten(bus)
    async with aclosing(read_timed_episodes(bus, tenant=tenant, user=user)) as episodes:
        remembered = (stamped async for stamped in episodes if stamped[0].episode_id not in forgotten)
        async for batch in _batches(remembered):
            await project_episodes(
                stores,
                await renew([episode for episode, _ in batch]),
                recorded_at={episode.episode_id: at for episode, at in batch},
            )
            count += len(batch)
            await failpoints.pass_window("rebuild.projected")
    return count


async def _batches(episodes: AsyncIterator[StampedEpisode]) -> AsyncIterator[list[StampedEpisode]]:
    batch: list[StampedEpisode] = []
    async for stamped in episodes:
        batch.append(stamped)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
