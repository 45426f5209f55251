"""From the record into the stores: idempotent, in batches that share one sync to disk (group commit)."""

from collections.abc import Sequence

from msgspec import Struct

from agents.memory.context import windows
from agents.memory.faults import StoreAway
from agents.memory.record import key
from agents.memory.stores import Stores
from bus import metrics
from schemas.episode import Episode
from schemas.errors import KikiError, Unavailable


async def apply(stores: Stores, episodes: Sequence[Episode]) -> None:
    """Store the episodes in Trace, then in Atlas with their neighbours in time. Again changes nothing.

    An episode without an embedding is found by its words alone.

    Raises:
        Unavailable: a store failed; the batch must be applied again.
    """
    for episode in episodes:
        if episode.embedding and len(episode.embedding) != stores.settings.vector_size:
            metrics.degraded(
                "atlas.vector_size",
                f"an episode's embedding has {len(episode.embedding)} floats, expected "
                f"{stores.settings.vector_size}: it is found by its words alone.",
            )
    orders = await stores.trace.upsert(episodes)
    changed = {key(one.tenant, "episode", one.episode_id) for one in episodes}
    near = {name: window for order in orders for name, window in windows(order, changed).items()}
    await stores.atlas.place(episodes, near)


class _Waiting(Struct, eq=False):
    episode: Episode
    done: bool = False
    error: KikiError | None = None


class Projection:
    """Gathers what is waiting: who gets the lock first applies everybody's episode."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._waiting: list[_Waiting] = []

    async def add(self, episode: Episode) -> None:
        """Apply the episode, together with the others that wait by then; returns when it is on disk.

        Raises:
            Unavailable: a store failed on this episode.
        """
        mine = _Waiting(episode)
        self._waiting.append(mine)
        try:
            async with self._stores.changing:
                if not mine.done:
                    batch, self._waiting = self._waiting, []
                    await self._apply(batch)
        finally:
            if mine in self._waiting:
                self._waiting.remove(mine)
        if mine.error is not None:
            raise mine.error

    async def _apply(self, batch: list[_Waiting]) -> None:
        """All at once; one by one when that fails, so that a poison episode takes nobody with it."""
        try:
            await self._try(batch)
            if len(batch) > 1 and batch[0].error is not None and not isinstance(batch[0].error, StoreAway):
                for one in batch:
                    await self._try([one])
        finally:
            for one in batch:
                if not one.done:  # cancelled half-way
                    one.done, one.error = True, Unavailable("the projection was interrupted; the episode comes again.")

    async def _try(self, batch: list[_Waiting]) -> None:
        error: KikiError | None = None
        try:
            await apply(self._stores, [one.episode for one in batch])
        except KikiError as failed:
            error = failed
        for one in batch:
            one.done, one.error = True, error
